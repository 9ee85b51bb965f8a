"""Networks: tensors in, tensors out; the zoo, weights files, and the detector around them."""
