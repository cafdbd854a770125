"""The routes of the browser: addresses to pages, pictures and files.

    app = make_app(site, access)          # an ASGI application behind its guard

Pages work without JavaScript; what it adds is selecting over several pages, keys, and dropping an
image. Functions that are not `async` run in threads.
"""

import os
import pathlib
import urllib.parse

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from dc_tf.data.storage.metadata import text as clean
from dc_tf.errors import ConfigError, DataError
from dc_tf.report.browser import text_search, views
from dc_tf.report.browser.guard import Access, Guard
from dc_tf.report.browser.overview import KINDS, SORTS, Filter, chosen, whole
from dc_tf.report.browser.selected import rows_of
from dc_tf.report.browser.site import Site

CARDS, TILES = 24, 60  # of a page
MOST_IMAGE_BYTES, MOST_FORM_BYTES = 32 << 20, 16 << 20
_FOLDER = pathlib.Path(__file__).parent
_STATIC = {
    "style.css": "text/css",
    "browse.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_TYPES = {"npy": "application/octet-stream", "jsonl": "application/jsonl"}  # of selections
_KEEP = {"Cache-Control": "private, max-age=86400"}  # of pictures, whose address has the version
_FRESH = {"Cache-Control": "no-store"}


def make_app(site: Site, access: Access) -> Guard:
    """The application."""
    pages = Pages(site)
    routes = [
        Route("/", pages.overview),
        Route("/cluster/{number}", pages.cluster),
        Route("/image/{row}", pages.image),
        Route("/image/{row}/similar", pages.similar),
        Route("/outliers", pages.outliers),
        Route("/search", pages.search),
        Route("/example", pages.take_example, methods=["POST"]),
        Route("/example/{number}", pages.example),
        Route("/example/{number}/thumbnail", pages.example_thumbnail),
        Route("/selections", pages.selections),
        Route("/selections", pages.save, methods=["POST"]),
        Route("/selections/{name}", pages.selection),
        Route("/thumbnail/{row}", pages.thumbnail),
        Route("/picture/{row}", pages.picture),
        Route("/static/{name}", _static),
    ]
    handlers = {
        HTTPException: pages.on_http_error,
        ConfigError: pages.on_error,
        DataError: pages.on_error,
    }
    return Guard(Starlette(routes=routes, exception_handlers=handlers), access)


class Pages:
    """The pages of a Site; each method answers a request."""

    def __init__(self, site: Site):
        self._site = site
        self._templates = _environment(site)

    def overview(self, request) -> Response:
        """Clusters as cards, filtered and sorted."""
        site, asked = self._site, Filter.read(request.query_params)
        sub_clusters = site.clustering.sub_clusters
        numbers = chosen(site.index, asked, sub_clusters, site.dataset.class_names, site.single)
        query = asked.query()
        pager = views.Pager.of(
            len(numbers), _page(request), CARDS, lambda page: views.address("/", **query, page=page)
        )
        return self._html(
            "overview.html",
            asked=asked,
            sorts=_sorts(site),
            kinds=KINDS,
            pager=pager,
            cards=views.cards(site, numbers[pager.part]),
        )

    def cluster(self, request) -> Response:
        """A cluster: its images by distance, its classes, the other sub-clusters of its cluster."""
        site = self._site
        number = self._below(request.path_params["number"], site.index.count)
        far = request.query_params.get("sort") == "far"
        members = site.index.members(number)[:: -1 if far else 1]
        path, sort = f"/cluster/{number}", "far" if far else None
        pager = views.Pager.of(
            len(members),
            _page(request),
            TILES,
            lambda page: views.address(path, sort=sort, page=page),
        )
        rows = members[pager.part]
        parent, siblings = self._siblings(number)
        return self._html(
            "cluster.html",
            card=views.card(site, number),
            labels=views.top_labels(site, number),
            pager=pager,
            far=far,
            parent=parent,
            siblings=siblings,
            tiles=views.tiles(site, rows, views.distance_notes(site, rows)),
        )

    def image(self, request) -> Response:
        """An image: picture, metadata, place in each round, and where to find similar ones."""
        site, row = self._site, self._row(request)
        number = int(site.index.flat[row])
        place, before, after = views.position(site, number, row)
        (record,) = site.pictures.records([row])
        return self._html(
            "image.html",
            record=record,
            size=site.pictures.size(row),
            card=views.card(site, number, images=0),
            place=place,
            before=before,
            after=after,
            distance=views.distance_notes(site, [row])[0],
            rounds=site.rounds.places(row),
        )

    def similar(self, request) -> Response:
        """The images that are most like one; as a part of a page if that is asked for."""
        row = self._row(request)
        found = self._examples().of_row(row)
        part = "fragment" in request.query_params
        (record,) = self._site.pictures.records([row])
        tiles = self._neighbour_tiles(found)
        return self._html("similar_tiles.html" if part else "similar.html", record, tiles=tiles)

    def outliers(self, request) -> Response:
        """The outliers, the farthest for their cluster first."""
        site = self._site
        pager = views.Pager.of(
            len(site.index.farthest),
            _page(request),
            TILES,
            lambda page: views.address("/outliers", page=page),
        )
        rows = site.index.farthest[pager.part]
        notes = [f"{beyond:.1f} sd" for beyond in site.index.deviations(rows)]
        return self._html("outliers.html", pager=pager, tiles=views.tiles(site, rows, notes))

    def search(self, request) -> Response:
        """Images by text."""
        site, values = self._site, request.query_params
        words, column = clean(values.get("q", ""), 200), values.get("in", "")
        row = whole(words.removeprefix("row ").strip())
        found, tiles = None, []
        if words and site.table is not None:
            first = whole(values.get("from", "")) or 0
            found = text_search.search(site.table, words, column, first)
            notes = [f"{hit.column}: {clean(hit.value, 120)}" for hit in found.hits]
            tiles = views.tiles(site, [hit.row for hit in found.hits], notes)
        more = found is not None and found.next_row is not None
        onward = {"in": column, "from": found.next_row} if more else {}
        return self._html(
            "search.html",
            words=words,
            column=column,
            row=row if row is not None and row < site.dataset.rows else None,
            found=found,
            more=more and views.address("/search", q=words, **onward),
            tiles=tiles,
        )

    async def take_example(self, request) -> Response:
        """Takes the bytes of an image; answers with the address of what is like it, as JSON."""
        try:
            data = await _body(request, MOST_IMAGE_BYTES)
            example = await run_in_threadpool(self._examples().of_image, data)
        except (ConfigError, DataError) as error:
            return JSONResponse({"error": str(error)}, 400, _FRESH)
        return JSONResponse({"location": f"/example/{example.number}"}, headers=_FRESH)

    def example(self, request) -> Response:
        """What is like an image that was dropped on the page."""
        example = self._example(request)
        tiles = self._neighbour_tiles(example.neighbours)
        return self._html("example.html", example=example, tiles=tiles)

    def example_thumbnail(self, request) -> Response:
        return _jpeg(self._example(request).thumbnail)

    def selections(self, request) -> Response:
        """The selections that were saved."""
        saved = request.query_params.get("saved", "")
        found = self._site.selections.all()
        names = [one.name for one in found]
        return self._html("selections.html", found=found, saved=saved if saved in names else "")

    async def save(self, request) -> Response:
        """Saves a selection from a form."""
        form = _form(await _body(request, MOST_FORM_BYTES))
        saved = await run_in_threadpool(self._save, form)
        return RedirectResponse(views.address("/selections", saved=saved.name), 303, _FRESH)

    def selection(self, request) -> Response:
        """The images of a selection, or its file for a name that ends in .npy or .jsonl."""
        selections, given = self._site.selections, request.path_params["name"]
        name, _, ending = given.rpartition(".")
        if ending in _TYPES:
            return _file(selections, name, ending)
        rows = selections.rows(given)
        pager = views.Pager.of(
            len(rows),
            _page(request),
            TILES,
            lambda page: views.address(f"/selections/{given}", page=page),
        )
        tiles = views.tiles(self._site, rows[pager.part])
        return self._html("selection.html", name=given, pager=pager, tiles=tiles)

    def thumbnail(self, request) -> Response:
        return _jpeg(self._site.pictures.thumbnail(self._row(request)))

    def picture(self, request) -> Response:
        return _jpeg(self._site.pictures.picture(self._row(request)))

    def on_http_error(self, request, error) -> Response:
        """A page for what is not there."""
        detail = "There is no such page, image or cluster." if error.status_code == 404 else ""
        return self._message(detail or error.detail, error.status_code)

    def on_error(self, request, error) -> Response:
        """A page for what cannot be done."""
        return self._message(str(error), 400 if isinstance(error, ConfigError) else 500)

    def _message(self, message, status):
        return self._html("message.html", status=status, message=message)

    def _html(self, template, record=None, status=200, **values):
        page = self._templates.get_template(template).render(record=record, status=status, **values)
        return HTMLResponse(page.encode("utf-8", "replace"), status, _FRESH)

    def _save(self, form):
        rows = rows_of(form, self._site)
        return self._site.selections.save(form.get("name", [""])[0], rows, "replace" in form)

    def _siblings(self, number):
        """(cluster of the first level, cards of its sub-clusters); (None, []) with one level."""
        sub_clusters = self._site.clustering.sub_clusters
        if sub_clusters == 1:
            return None, []
        parent = number // sub_clusters
        asked = Filter(parent=parent)
        names = self._site.dataset.class_names
        found = chosen(self._site.index, asked, sub_clusters, names, self._site.single)
        return parent, [views.card(self._site, one, images=1) for one in found.tolist()[:CARDS]]

    def _neighbour_tiles(self, found):
        notes = [f"cosine {cosine:.3f}" for _, cosine in found]
        return views.tiles(self._site, [row for row, _ in found], notes)

    def _examples(self):
        if self._site.examples is None:
            raise ConfigError(
                "there are no features of these images, so nothing can be compared; start "
                "dc_tf browse with --embed, or with --features."
            )
        return self._site.examples

    def _example(self, request):
        example = self._examples().kept(request.path_params["number"])
        if example is None:
            raise HTTPException(404)
        return example

    def _row(self, request):
        return self._below(request.path_params["row"], self._site.dataset.rows)

    def _below(self, text, count):
        number = whole(text)
        if number is None or number >= count:
            raise HTTPException(404)
        return number


def _environment(site):
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"site": site, "address": views.address}
    made.filters |= {"clean": clean, "value": views.value_text}
    return made


def _sorts(site):
    """The ways to sort that the statistics of the clusters allow."""
    absent = set() if site.index.labelled.any() else {"purest", "mixed"}
    absent |= {"tight", "loose"} if site.index.distance is None else set()
    return {name: title for name, title in SORTS.items() if name not in absent}


def _page(request):
    return whole(request.query_params.get("page", "")) or 1


async def _body(request, most):
    """The body of a request, of at most so many bytes."""
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > most:
            raise HTTPException(413, f"That is more than {most >> 20} MB.")
    return b"".join(parts)


def _form(data):
    """{name: list of values} of an encoded form."""
    try:
        return urllib.parse.parse_qs(data.decode("ascii"), max_num_fields=10_000)
    except ValueError as error:
        raise HTTPException(400, "That is no form of this page.") from error


def _file(selections, name, ending):
    selections.rows(name)  # which refuses one that is not there
    path = selections.path(name, ending)
    if not os.path.isfile(path):
        raise HTTPException(404)
    return FileResponse(
        path,
        headers=_FRESH,
        filename=f"{name}.{ending}",
        media_type=_TYPES[ending],
    )


def _jpeg(data):
    return Response(data, media_type="image/jpeg", headers=_KEEP)


def _static(request):
    name = request.path_params["name"]
    if name not in _STATIC:
        raise HTTPException(404)
    data = (_FOLDER / "static" / name).read_bytes()
    return Response(data, media_type=_STATIC[name], headers={"Cache-Control": "no-cache"})
