"""The public names of `repanalysis`."""

from . import metrics as metrics
from . import plots as plots
from .analyses.filters.measures import filters as filters
from .analyses.geometry.engine import analyze as analyze
from .analyses.pruning.networks import prune as prune
from .analyses.similarity import compare as compare
from .analyses.stability.sensitivity import stability as stability
from .inputs.data import load_data as load_data
from .inputs.models import load_model as load_model
from .table import Table as Table
from .training.runs import train as train
