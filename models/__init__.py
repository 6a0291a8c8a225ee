"""Networks and the readers of their published weights; knows nothing of data formats, training or Flower.

Tensor names end in the letters of their axes: B batch, L positions, D width, H heads, C classes, N cells, G genes.
So `tokens_BL` is a batch of token sequences and `pooled_BD` one vector per cell of the batch.
"""
