"""Images as arrays of pixels: npz, IDX and CIFAR files."""
