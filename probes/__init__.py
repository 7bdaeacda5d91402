"""Record the outputs of all layers of a network, and read them.

`attach`, `capture` and `record` put hooks on a PyTorch model; `open` reads the file that `record` writes, and needs no torch.
`__init__.pyi` lists all public names; each is imported when it is first used.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
