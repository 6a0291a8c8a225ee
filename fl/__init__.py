"""The federated runner: what server and clients do in each phase, and the engines that bring them together."""
