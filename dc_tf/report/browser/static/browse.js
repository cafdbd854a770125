"use strict";
// Selecting over several pages, keys, and dropping an image. Without it pages are links and forms.
(() => {
  const page = document.body;
  const store = "dc_tf " + page.dataset.store;
  const save = document.getElementById("save");
  document.documentElement.classList.add("js");

  const read = () => {
    try {
      const kept = JSON.parse(sessionStorage.getItem(store));
      return { row: new Set(kept.row), cluster: new Set(kept.cluster) };
    } catch {
      return { row: new Set(), cluster: new Set() };
    }
  };
  const selected = read();
  const keep = () => {
    const plain = { row: [...selected.row], cluster: [...selected.cluster] };
    try {
      sessionStorage.setItem(store, JSON.stringify(plain));
    } catch {
      notify("The selection is too large to be kept; save it in parts.");
    }
  };

  function notify(text) {
    const notice = document.getElementById("notice");
    notice.textContent = text;
    notice.hidden = false;
    setTimeout(() => { notice.hidden = true; }, 8000);
  }

  const counted = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

  function show() {
    for (const tick of document.querySelectorAll("input[form=save][type=checkbox]")) {
      tick.checked = selected[tick.name].has(tick.value);
    }
    if (!save) return;
    const parts = [];
    if (selected.cluster.size) parts.push(counted(selected.cluster.size, "cluster"));
    if (selected.row.size) parts.push(counted(selected.row.size, "image"));
    save.classList.toggle("empty", parts.length === 0);
    document.getElementById("count").textContent =
      parts.length ? `${parts.join(" and ")} selected` : "";
    document.getElementById("clear").hidden = parts.length === 0;
  }

  function set(tick, on) {
    selected[tick.name][on ? "add" : "delete"](tick.value);
  }

  // Selecting: a click, with Shift all since the last one.
  let last = null;
  function toggle(tick, on, withRange) {
    const all = [...document.querySelectorAll(".tile input[form=save]")];
    const [from, to] = [all.indexOf(last), all.indexOf(tick)];
    if (withRange && from >= 0 && to >= 0) {
      for (const one of all.slice(Math.min(from, to), Math.max(from, to) + 1)) set(one, on);
    }
    set(tick, on);
    last = tick;
    keep();
    show();
  }
  let shift = false;
  document.addEventListener("click", (event) => { shift = event.shiftKey; }, true);
  document.addEventListener("change", (event) => {
    const tick = event.target;
    if (tick.matches("input[form=save][type=checkbox]")) toggle(tick, tick.checked, shift);
  });

  if (save) {
    save.addEventListener("submit", () => {
      for (const tick of document.querySelectorAll("input[form=save]")) tick.disabled = true;
      for (const name of ["row", "cluster"]) {
        const field = document.createElement("input");
        field.type = "hidden";
        field.name = `${name}s`;
        field.value = [...selected[name]].join(",");
        save.append(field);
      }
    });
    document.getElementById("clear").addEventListener("click", () => {
      selected.row.clear();
      selected.cluster.clear();
      keep();
      show();
    });
  }
  // A page that comes back from the browser's memory has what its form had then.
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  if (document.getElementById("saved")) {
    selected.row.clear();
    selected.cluster.clear();
    keep();
  }

  // Keys.
  const help = document.getElementById("help");
  const keys = document.getElementById("keys");
  keys.hidden = false;
  keys.addEventListener("click", () => help.showModal());

  const links = () => [...document.querySelectorAll(".tile a.picture")];
  function move(key) {
    const all = links();
    if (!all.length) return;
    const at = all.indexOf(document.activeElement);
    if (at < 0) { all[0].focus(); return; }
    const top = all[0].closest(".tile").offsetTop;
    const firstLine = all.filter((link) => link.closest(".tile").offsetTop === top).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -firstLine, ArrowDown: firstLine }[key];
    const to = all[at + step];
    if (to) to.focus();
  }
  function tickHere(event) {
    const tile = document.activeElement.closest(".tile");
    const tick = (tile || document.querySelector(".headline") || page).querySelector("input[form=save]");
    if (tick) toggle(tick, !tick.checked, event.shiftKey);
  }
  function tickAll() {
    const all = [...document.querySelectorAll(".tile input[form=save]")];
    const on = all.some((tick) => !tick.checked);
    for (const tick of all) set(tick, on);
    keep();
    show();
  }
  const follow = (rel) => document.querySelector(`a[rel=${rel}]`)?.click();
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=checkbox]), select, textarea");
    if (typing || help.open || event.ctrlKey || event.metaKey || event.altKey) return;
    const does = {
      x: () => tickHere(event), X: () => tickHere(event), a: tickAll,
      n: () => follow("next"), p: () => follow("prev"),
      s: () => document.getElementById("name")?.focus(),
      "/": () => document.getElementById("q").select(),
      "?": () => help.showModal(),
    }[event.key];
    if (event.key.startsWith("Arrow") && links().length) move(event.key);
    else if (does) does();
    else return;
    event.preventDefault();
  });

  // An image of the user: dropped anywhere, or chosen.
  const cover = document.getElementById("drop");
  const carriesFile = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  async function find(file) {
    cover.querySelector("p").textContent = "Looking for what is like it. The first time the network is loaded.";
    cover.hidden = false;
    try {
      const answer = await fetch("/example", {
        method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
      });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      location.assign(found.location);
    } catch (error) {
      cover.hidden = true;
      notify(error.message || "The server cannot be reached; see whether it still runs.");
    }
  }
  if (page.dataset.examples) {
    let depth = 0;
    document.addEventListener("dragenter", (event) => {
      if (carriesFile(event)) { depth += 1; cover.hidden = false; }
    });
    document.addEventListener("dragleave", (event) => {
      if (carriesFile(event) && --depth <= 0) { depth = 0; cover.hidden = true; }
    });
    document.addEventListener("dragover", (event) => { if (carriesFile(event)) event.preventDefault(); });
    document.addEventListener("drop", (event) => {
      if (!event.dataTransfer?.files.length) return;
      event.preventDefault();
      find(event.dataTransfer.files[0]);
    });
    const file = document.getElementById("file");
    if (file) {
      file.hidden = false;
      file.addEventListener("change", () => { if (file.files.length) find(file.files[0]); });
    }
  }

  // What is like the image of the page.
  const similar = document.getElementById("similar");
  if (similar) {
    fetch(similar.dataset.part).then(async (answer) => {
      if (!answer.ok) return;
      const part = new DOMParser().parseFromString(await answer.text(), "text/html");
      similar.replaceChildren(...part.body.childNodes);
      show();
    }).catch(() => notify("The server cannot be reached; see whether it still runs."));
  }
  show();
})();
