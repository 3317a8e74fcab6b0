"""Image collections as uint8 tensors with fixed splits: built-in, torchvision, folders and arrays."""
