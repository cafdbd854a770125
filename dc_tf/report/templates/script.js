"use strict";
// Filters and sorts the clusters, and shows values of charts and thumbnails of the map under the
// pointer. Texts are only ever set as text.

const AT_FIRST = 24; // cards

function forms() {
  for (const form of document.querySelectorAll("form.tools")) {
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
  }
}

function clusters() {
  const form = document.querySelector("#clusters form");
  if (!form) return;
  const grid = document.querySelector(".cards");
  const cards = Array.from(grid.children);
  const none = document.querySelector("#clusters .none");
  const more = document.querySelector("#clusters .more");
  let limit = AT_FIRST;
  // Of these the least comes first, of the others the largest.
  const ascending = new Set(["hue", "deviation", "spread"]);

  function key(card, name) {
    const value = card.dataset[name];
    return value === "" ? null : Number(value);
  }

  function compare(name) {
    return (a, b) => {
      const [x, y] = [key(a, name), key(b, name)];
      if (x === null || y === null) return (x === null) - (y === null);
      return ascending.has(name) ? x - y : y - x;
    };
  }

  function update() {
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const group = form.elements.group.value;
    const name = form.elements.sort.value;
    const sorted = name ? cards.slice().sort(compare(name)) : cards;
    let found = 0;
    for (const card of sorted) {
      const matches = words.every((word) => card.dataset.text.includes(word));
      const inGroup = !group || card.dataset.groups.split("|").includes(group);
      found += matches && inGroup;
      card.hidden = !(matches && inGroup && found <= limit);
    }
    grid.append(...sorted);
    form.querySelector("output").textContent = `${found} of ${cards.length} clusters`;
    none.hidden = found > 0;
    more.hidden = found <= limit;
    more.textContent = `Show ${found - limit} more`;
  }

  // A link to a card that is not shown shows all of them.
  function follow() {
    const card = document.getElementById(location.hash.slice(1));
    if (!card || !card.hidden) return;
    form.reset();
    limit = Infinity;
    update();
    card.scrollIntoView();
  }

  form.addEventListener("input", () => {
    limit = AT_FIRST;
    update();
  });
  more.addEventListener("click", () => {
    limit = Infinity;
    update();
  });
  window.addEventListener("hashchange", follow);
  update();
  follow();
}

function place(tip, x, y, box) {
  tip.hidden = false;
  tip.style.left = `${Math.max(0, Math.min(x + 12, box.width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(0, y - tip.offsetHeight - 12)}px`;
}

function nearest(points, x) {
  return points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
}

function charts() {
  for (const plot of document.querySelectorAll(".chart .plot")) {
    const svg = plot.querySelector("svg");
    const tip = plot.querySelector(".tip");
    const lines = Array.from(plot.querySelectorAll("path[data-points]"), (path) => ({
      name: path.dataset.name,
      points: JSON.parse(path.dataset.points),
    }));
    if (!lines.length) continue;
    const cross = document.createElementNS("http://www.w3.org/2000/svg", "path");
    cross.setAttribute("class", "cross");
    cross.setAttribute("visibility", "hidden");
    svg.append(cross);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const found = lines.map((line) => [line.name, nearest(line.points, x)]);
      const [, first] = found[0];
      cross.setAttribute("d", `M${first[0]},12V170`);
      cross.setAttribute("visibility", "visible");
      const values = found.map(([name, point]) => `${name}: ${point[3]}`);
      tip.textContent = [first[2], ...values].join("\n");
      place(tip, event.clientX - box.left, event.clientY - box.top, box);
    });
    svg.addEventListener("pointerleave", () => {
      cross.setAttribute("visibility", "hidden");
      tip.hidden = true;
    });
  }
}

function map() {
  const plot = document.querySelector(".plot.map");
  if (!plot) return;
  const others = JSON.parse(document.getElementById("map-pictures").textContent);
  const tip = plot.querySelector(".tip");

  function picture(number) {
    const own = document.querySelector(`#cluster-${number} .sheet img`);
    return own ? own.src : others[number];
  }

  function show(dot) {
    const [box, at] = [plot.getBoundingClientRect(), dot.getBoundingClientRect()];
    tip.textContent = "";
    const source = picture(dot.dataset.cluster);
    if (source) {
      const image = new Image(84, 84);
      image.alt = "";
      image.src = source;
      tip.append(image);
    }
    tip.append(dot.querySelector("title").textContent);
    place(tip, at.right - box.left, at.top - box.top, box);
  }

  const dots = Array.from(plot.querySelectorAll(".dot"));
  for (const dot of dots) {
    dot.addEventListener("pointerenter", () => show(dot));
    dot.addEventListener("pointerleave", () => { tip.hidden = true; });
    if (dot.parentNode.tagName === "a") {
      dot.parentNode.addEventListener("focus", () => show(dot));
      dot.parentNode.addEventListener("blur", () => { tip.hidden = true; });
    }
  }
  const column = document.querySelector("#map select");
  const legends = Array.from(document.querySelectorAll(".map-legend"));
  column.addEventListener("input", () => {
    const chosen = Number(column.value);
    legends.forEach((legend, number) => { legend.hidden = number !== chosen; });
    for (const dot of dots) {
      const classes = JSON.parse(dot.dataset.classes);
      dot.setAttribute("class", `dot c${chosen < 0 ? 7 : classes[chosen]}`);
      dot.style.fill = chosen < 0 ? dot.dataset.fill || "" : "";
    }
  });
}

forms();
clusters();
charts();
map();
