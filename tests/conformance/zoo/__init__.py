"""The architectures of the conformance suite, by source and name."""

from tests.conformance.comparing import Architecture
from tests.conformance.zoo.of_timm import TIMM
from tests.conformance.zoo.of_torchvision import TORCHVISION
from tests.conformance.zoo.of_transformers import TRANSFORMERS
from tests.conformance.zoo.small import SMALL

__all__ = ["ARCHITECTURES"]

ARCHITECTURES: dict[str, Architecture] = {
    f"{source}: {name}": architecture
    for source, part in (("small", SMALL), ("timm", TIMM), ("torchvision", TORCHVISION), ("transformers", TRANSFORMERS))
    for name, architecture in part.items()
}
