"""Names of the files of a RUN folder that answers beyond labels are read from."""

LEFT_OUT, NOVELTY, CLASS_TREE = "left_out.parquet", "novelty.safetensors", "class_tree.json"
# What helps where one of them is damaged.
ADVICE = "copy the run again from where it was made, or train again"
