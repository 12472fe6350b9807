# %% [markdown]
# # A store of a team
#
# One person extracts, everybody trains. A store is a folder that many processes may write to and read from
# at a time; what is stored is never changed, and damage is found by checksums.

# %%
from toptune.extract import extract

MODEL = "resnet10t.toptune_glyphs"
extract("digits", model=MODEL, store="features")

# %% [markdown]
# A colleague gives the same call. Everything is there, so that nothing is computed:

# %%
again = extract("digits", model=MODEL, store="features")
print("nothing to do:", again.nothing_to_do, "-", again.units_done, "units computed")

# %% [markdown]
# What is there, who made it, and whether every byte is what was written:

# %%
from toptune.store import FeatureStore, summarize, verify

store = FeatureStore.open("features")
for cache in summarize(store):
    print(cache.dataset, cache.name, cache.n_rows, "rows", ", ".join(cache.arrays))
found = verify(store, deep=True)
print(found.n_files, "files,", len(found.damaged), "damaged")

# %% [markdown]
# Heads of two colleagues on the same features. The rows that train and test follow from the seed, so that
# both are scored on the same images.

# %%
from toptune.train import train

for head in ("lda", "ncm"):
    run = train("features", dataset="digits", model=MODEL, head=head, layers="last", out=f"run-{head}")
    print(head, f"{run.metrics['accuracy']:.3f}")

# %% [markdown]
# A copy at another place, or in another format, is compared with the source unit by unit:

# %%
from toptune.store import copy_store

copied = copy_store(store, "features-on-another-disk", dataset="digits")
print(copied.units_copied, "units copied,", copied.units_already, "were there")
