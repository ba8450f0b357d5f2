"""Weakly supervised methods: each a package that trains on weak labels and predicts on slides.

To add one: a package with the same files and one row in ``wsikit.predictors.METHODS``. Its module exposes, and
tests/conformance/test_methods.py checks:

* ``Config``: a frozen pydantic model, everything that ``wsikit train`` can be told;
* ``build_model(config) -> torch.nn.Module``;
* ``dataset(config, split) -> Sequence``: the examples of a split (train, validation, test);
* ``train(config, out, watch=None) -> Path``: the checkpoint, goes on where an earlier call was ended;
* ``load_predictor(checkpoint, *, mpp=None, min_tissue=None, device="auto") -> Predictor``;
* ``evaluate(predictor, dataset) -> dict[str, float]``.

It is a convention, not a base class.
"""
