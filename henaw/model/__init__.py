"""The clock: features, the ensemble network, the Wasserstein barycenter, and the fitted thing that answers.

Only ``network`` and ``losses`` need PyTorch; a fitted clock predicts with numpy alone.
"""
