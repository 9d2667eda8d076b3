"""timm's download of weights beside a huggingface_hub that it takes for missing, from a hub on this machine."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save

from ibrobust.errors import IbrobustError
from ibrobust.integrations.doctor import trials
from ibrobust.integrations.external_models import UnitRangeInput, load_reference
from ibrobust.integrations.robustbench.environment import adapt_timm, imported_quietly

with imported_quietly():
    import timm
    from timm.models import _hub


@pytest.fixture
def as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm as it is after its import has failed to find one name in huggingface_hub."""
    monkeypatch.setattr(_hub, "_has_hf_hub", False)
    monkeypatch.setattr(_hub, "hf_hub_download", None)
    monkeypatch.delattr(_hub, "EntryNotFoundError", raising=False)
    monkeypatch.delattr(_hub, "_adapted_by_ibrobust", raising=False)


@pytest.fixture
def network() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        return timm.create_model("test_vit", pretrained=False).eval()


@pytest.fixture
def hub(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[list[str]]:
    """A hub that has the weights of one model; yields the paths that are asked for."""
    content = save(network.state_dict())
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            found = self.path.endswith("/model.safetensors")
            self.send_response(200 if found else 404)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content) if found else 0))
            if not found:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    template = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield asked
    server.shutdown()
    server.server_close()


def test_weights_come_from_the_hub(as_installed: None, hub: list[str], network: torch.nn.Module) -> None:
    model = load_reference("timm:test_vit")
    assert isinstance(model, UnitRangeInput)
    images = torch.rand(1, 3, *model.image_size)
    assert torch.equal(model.model(images), network(images))
    assert any("test_vit" in path for path in hub)


def test_timm_is_left_alone_where_it_finds_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    own = object()
    monkeypatch.setattr(_hub, "_has_hf_hub", True)
    monkeypatch.setattr(_hub, "hf_hub_download", own)
    monkeypatch.delattr(_hub, "_adapted_by_ibrobust", raising=False)
    assert not adapt_timm()
    assert _hub.hf_hub_download is own


def test_the_doctor_says_that_timm_was_adapted(as_installed: None) -> None:
    found = trials.try_timm()
    assert found.status == "ok"
    assert "can download, adapted to huggingface_hub" in found.detail


def test_without_the_package_the_command_is_named(as_installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(IbrobustError, match="timm cannot download.*pip install"):
        load_reference("timm:test_vit")
    found = trials.try_timm()
    assert (found.status, found.remedy) == ("note", "pip install --upgrade huggingface_hub")
