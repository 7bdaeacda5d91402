"""Pruning by what filters serve: applying filters' cluster connections (AFCC).

`masks` says which weights stay, `applying` keeps the others at 0, `recorded_heads` prunes a head on recorded activations, and
`networks` a whole network, convolutions included (docs/filter_clusters.md, Formulas; Y. Tzach et al., Physical
Review E 111, 2025).
"""
