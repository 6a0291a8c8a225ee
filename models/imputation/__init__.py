"""Imputing one assay from another without a network, and what to say of the imputed values of any model.

Tensor names end in the letters of their axes: N samples, I input features, O output features, K neighbours, L latent
dimensions, S steps.
"""
