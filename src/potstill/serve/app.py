"""The application: endpoints, pages, and what stands before them.

In:  the models on offer, the settings.
Out: a FastAPI application; its pool is `app.state.pool`.
Does not know: sockets, signals, the terminal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware

from potstill.serve import api
from potstill.serve.access import Access
from potstill.serve.errors import install_handlers
from potstill.serve.guard import Guard, SecurityHeaders
from potstill.serve.metrics import Metrics
from potstill.serve.pool import Pool
from potstill.serve.settings import Settings, refuse_what_is_unsafe

PAGE_FOLDER = Path(__file__).parent / "page"
PAGES = {"/": "chat.html", "/compare": "compare.html"}
RATING_PAGES = {"/rate/{token}": "rate.html", "/operate": "operate.html"}


def create_app(models: Mapping[str, Callable[[], Path]], settings: Settings) -> FastAPI:
    """Everything a server offers.

    Args:
        models: name → what finds its GGUF, when it is first asked for.
        settings: the server's.

    Raises: Problem where the settings would open it to a network without a key, or a rating's file is wrong.
    """
    refuse_what_is_unsafe(settings)
    metrics = Metrics()
    pool = Pool(models, settings, metrics)
    app = FastAPI(
        title="potstill",
        version="1",
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        lifespan=_lifespan(pool),
        middleware=_middleware(settings, metrics),
    )
    app.state.pool = pool
    install_handlers(app)
    app.include_router(api.build_router(pool, settings, metrics))
    _add_pages(app, PAGES)
    if settings.rating is not None:
        from potstill.serve import ratings

        app.include_router(ratings.build_router(pool, settings))
        _add_pages(app, RATING_PAGES)
    app.mount("/static", StaticFiles(directory=PAGE_FOLDER), name="static")
    return app


def _middleware(settings: Settings, metrics: Metrics) -> list[Middleware]:
    """From the outermost to the innermost."""
    return [Middleware(SecurityHeaders), Middleware(Access, metrics=metrics), Middleware(Guard, settings=settings)]


def _lifespan(pool: Pool) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        closing = asyncio.create_task(pool.close_unused())
        try:
            yield
        finally:
            closing.cancel()
            await pool.close()

    return lifespan


def _add_pages(app: FastAPI, pages: Mapping[str, str]) -> None:
    for path, name in pages.items():
        app.add_api_route(path, _page(PAGE_FOLDER / name), include_in_schema=False)


def _page(file: Path) -> Callable[[], object]:
    async def page() -> FileResponse:
        return FileResponse(file, media_type="text/html; charset=utf-8")

    return page
