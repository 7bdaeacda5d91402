"""How far a network's outputs move when its inputs are perturbed."""
