"""Running predictors: one slide (``run``), a folder of slides (``run_many``), and what they leave behind."""
