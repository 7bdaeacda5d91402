"""ReduNets: networks that are constructed layer by layer by maximising the rate reduction (docs/redunet.md)."""
