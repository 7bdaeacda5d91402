"""The public names of `probes`."""

from .arrays import Arrays as Arrays
from .arrays import from_arrays as from_arrays
from .batch import Batch as Batch
from .batch import LayerInfo as LayerInfo
from .capturing.hooks import Recording as Recording
from .capturing.hooks import attach as attach
from .capturing.steps import capture as capture
from .errors import (
    ArrivalOrderWarning as ArrivalOrderWarning,
)
from .errors import (
    DataError as DataError,
)
from .errors import (
    FormatError as FormatError,
)
from .errors import (
    IgnoredWarning as IgnoredWarning,
)
from .errors import (
    IncompleteError as IncompleteError,
)
from .errors import (
    LeftOutWarning as LeftOutWarning,
)
from .errors import (
    NonFiniteWarning as NonFiniteWarning,
)
from .errors import (
    ReportedError as ReportedError,
)
from .errors import (
    UsageError as UsageError,
)
from .opening import open as open
from .options import CaptureOptions as CaptureOptions
from .recording import record as record
from .source import Source as Source
from .storage.shards import Shards as Shards
from .storage.shards import merge as merge
from .storage.store import Store as Store
from .storage.writer import Writer as Writer
from .storage.writer import create as create
from .storage.writer import resume as resume
