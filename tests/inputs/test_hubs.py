"""Downloads, and hubs that can't be reached."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from probes import UsageError
from repanalysis.inputs import hubs
from repanalysis.inputs.hubs import download, is_reachable
from repanalysis.inputs.models import load_model


class Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusing) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture
def closed() -> str:
    """An address without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_any_answering_server_is_reachable(server: str, closed: str) -> None:
    assert is_reachable(server)
    assert not is_reachable(closed)
    assert not is_reachable("no address")


def test_an_unresponsive_server_times_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert not is_reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.1)


def test_an_unreachable_hub_falls_back_to_the_cache_then_an_error(closed: str) -> None:
    from huggingface_hub import constants

    with download("timm:x", closed, instead="Walk."):
        assert constants.HF_HUB_OFFLINE
        assert socket.getdefaulttimeout() is not None
    assert not constants.HF_HUB_OFFLINE
    assert socket.getdefaulttimeout() is None
    with pytest.raises(UsageError) as caught, download("timm:x", closed, instead="Walk."):
        raise RuntimeError("it is not in the cache")
    assert str(caught.value) == f"The weights of timm:x could not be had ({closed} can't be reached). Walk."
    with pytest.raises(UsageError, match="can't be reached"), download("x", closed, instead="Walk.", cached=False):
        pytest.fail("this library would ask the hub again")


def test_the_refusal_of_a_hub_is_quoted(server: str) -> None:
    with pytest.raises(UsageError) as caught, download("timm:x", server, instead="Walk."):
        raise OSError("401: you may not\nand more")
    assert str(caught.value) == "The weights of timm:x could not be had (OSError: 401: you may not). Walk."


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18", "hf:nobody/nothing"])
def test_every_hub_is_contacted_once(
    spec: str, closed: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """Regression: six attempts for each of two files took 64 s, and 115 s for a Hugging Face model, with a line for each."""
    asked = []

    def asking(address: str, **_: object) -> bool:
        asked.append(address)
        return False

    monkeypatch.setattr(hubs, "is_reachable", asking)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: closed)
    with pytest.raises(UsageError, match="could not be had") as caught:
        load_model(spec)
    assert len(asked) == 1
    assert asked[0].startswith("https://")
    assert "can't be reached" in str(caught.value)
    assert "--weights random" in str(caught.value) or "hf:DIR" in str(caught.value)
    assert "Retrying" not in capfd.readouterr().err


def test_random_weights_contact_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "is_reachable", lambda *_, **__: pytest.fail("asked"))
    for spec in ("timm:resnet18", "torchvision:resnet18"):
        load_model(spec, weights="random")
