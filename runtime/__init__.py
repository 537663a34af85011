"""What a device needs to predict: decode, preprocess, engine, scores; without torch or timm."""
