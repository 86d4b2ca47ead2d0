"""The server as an ASGI application: which address leads to which endpoint, and what stands in front of them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response

from blspkd.models.chat import SpeechLLM
from blspkd.serve.api_error import ApiError, api_error, quoted
from blspkd.serve.batcher import Batcher
from blspkd.serve.endpoints import Endpoints
from blspkd.serve.guard import Guard
from blspkd.serve.metrics import Metrics
from blspkd.serve.page import page_response
from blspkd.serve.settings import Settings


def make_app(model: SpeechLLM | Callable[[], SpeechLLM], settings: Settings,
             on_failure: Callable[[], None] = lambda: None) -> FastAPI:
    """model: or what loads it, while /health already answers 503; on_failure: called when that, or the model's thread,
    fails, for the reason that `app.state.batcher.failure` has."""
    metrics = Metrics()
    batcher = Batcher(model if not isinstance(model, SpeechLLM) else lambda: model, settings, metrics, on_failure)
    endpoints, page = Endpoints(batcher, metrics, settings), page_response()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        batcher.stop()

    async def show_page(request: Request) -> Response:
        return page

    # No schema and no documentation pages: those of FastAPI load code from elsewhere.
    app = FastAPI(title="blspkd", lifespan=lifespan, openapi_url=None, redirect_slashes=False,
                  exception_handlers={ApiError: _tell, Exception: _tell, 404: _unknown_address, 405: _wrong_method})
    app.state.batcher = batcher
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    for method, path, endpoint in (
            ("POST", "/v1/chat/completions", endpoints.chat),
            ("POST", "/v1/audio/transcriptions", endpoints.transcribe),
            ("POST", "/v1/hear", endpoints.hear),
            ("GET", "/v1/models", endpoints.models),
            ("GET", "/v1/models/{name:path}", endpoints.model),
            ("GET", "/health", endpoints.health),
            ("GET", "/metrics", endpoints.figures),
            ("GET", "/", show_page)):
        app.add_route(path, endpoint, methods=[method])
    return app


async def _tell(request: Request, error: Exception) -> Response:
    return api_error(error).response()


async def _unknown_address(request: Request, error: Exception) -> Response:
    return ApiError(404, f"{quoted(request.url.path)}: there is no such address; see /v1/models, /v1/chat/completions "
                    "and /v1/audio/transcriptions", code="unknown_url").response()


async def _wrong_method(request: Request, error: Exception) -> Response:
    allowed = error.headers or {}
    return ApiError(405, f"{request.method[:20]}: is not for this address; use {allowed.get('Allow', 'another')}",
                    code="method_not_supported", headers=allowed).response()
