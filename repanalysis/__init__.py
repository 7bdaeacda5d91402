"""What a network does to its data, layer by layer: class geometry across depth, from recorded activations.

`__init__.pyi` lists all public names; each is imported when it is first used.

>>> import repanalysis
>>> "fisher_ratio" in repanalysis.metrics.names()
True
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
