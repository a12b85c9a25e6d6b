"""Laws of forgetting: points in, parameters and predictions with intervals out."""
