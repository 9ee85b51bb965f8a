"""The rules of one stream of images, the same for every method and wherever images come from."""
