"""One builder per data set: each turns a source into motion records of three splits."""
