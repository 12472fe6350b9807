"""`Learner` trains a network: its steps, its learning rates and its validation."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.nn import functional

from toptune.extract.backbone.backbone import Backbone
from toptune.machine.device_memory import explained_out_of_memory
from toptune.machine.precision import fixed_algorithms, full_precision
from toptune.train.rows.splits import hash_of
from toptune.workflows.finetuning.images import ImageLoader
from toptune.workflows.finetuning.options import FineTuneOptions
from toptune.workflows.finetuning.trained_network import TrainedNetwork

# The option `sgd` of timm is Nesterov's momentum; "When & How to Transfer" trains with plain momentum.
_OPTIMIZERS = {"adamw": "adamw", "sgd": "momentum"}
_MOMENTUM = 0.9
# An optimizer holds float32 values beside each parameter: two moments of AdamW or one of SGD.
MOMENTS = {"adamw": 2, "sgd": 1}
MOMENT_BYTES = 4

Seen = Callable[[int], object]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Logits of some rows, with their loss and accuracy.

    Attributes
    ----------
    logits : ndarray of float32, shape (n, n_classes)
        Logits of the classes.
    loss : float
        Mean cross-entropy.
    accuracy : float
        Share of the rows whose class has the largest logit.
    """

    logits: npt.NDArray[np.float32]
    loss: float
    accuracy: float


@dataclass(eq=False, kw_only=True)
class Learner:
    """Trains a network on rows of images, an epoch at a time.

    Every epoch seeds torch's generators anew, so that a checkpoint between epochs needs no random state.

    Attributes
    ----------
    network : TrainedNetwork
        The network, and which of its modules are trained.
    backbone : Backbone
        The backbone that the network was made of, for its device and its transform.
    loader : ImageLoader
        The images, by row.
    targets : ndarray of int64
        Class of each row of the manifest; -1 where the row has no class that is trained.
    options : FineTuneOptions
        Optimizer, batch size, epochs and seed.
    precision : {"fp32", "bf16"}
        Arithmetic of the forward passes.
    """

    network: TrainedNetwork
    backbone: Backbone
    loader: ImageLoader
    targets: Rows
    options: FineTuneOptions
    precision: str
    _initial: dict[str, torch.Tensor] = field(init=False, repr=False)
    _optimizer: torch.optim.Optimizer = field(init=False, repr=False)
    _schedule: CosineLRScheduler = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Every learning rate starts here, so that rates differ by nothing else.
        self._initial = self.network.state()

    def begin(self, learning_rate: float, *, n_steps_per_epoch: int) -> None:
        """Go back to the pretrained weights and make a new optimizer."""
        self.network.restore(self._initial)
        self._optimizer = create_optimizer_v2(
            self.network.model,
            opt=_OPTIMIZERS[self.options.optimizer],
            lr=learning_rate,
            weight_decay=self.options.decay,
            momentum=_MOMENTUM,
        )
        self._schedule = cosine_schedule(
            self._optimizer,
            n_steps=self.options.epochs * n_steps_per_epoch,
            n_warmup=self.options.n_warmup_epochs * n_steps_per_epoch,
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors of network and optimizer, each under a name of its own."""
        # safetensors holds tensors only. The rest of the optimizer's state, its groups and rates, follows
        # from the options and the number of the step.
        moments = {
            f"optimizer.{index}.{name}": value.detach().to("cpu", copy=True).contiguous()
            for index, values in self._optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if isinstance(value, torch.Tensor)
        }
        return {f"network.{name}": value for name, value in self.network.state().items()} | moments

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Take over tensors that `state` returned; call `begin` first, which makes the optimizer."""
        self.network.restore(
            {name.removeprefix("network."): state[name] for name in state if name.startswith("network.")}
        )
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in state.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                moments.setdefault(int(index), {})[key] = value
        self._optimizer.load_state_dict(
            {"state": moments, "param_groups": self._optimizer.state_dict()["param_groups"]}
        )

    def train_epoch(self, rows: Rows, epoch: int, *, seen: Seen) -> float:
        """Take a step for each batch; return the mean loss, which is not finite if the training diverged.

        Parameters
        ----------
        rows : ndarray of int64
            Training rows.
        epoch : int
            Number of the epoch, from 0.
        seen : callable
            Called with the size of each batch as the batch is done; may raise to stop.
        """
        batches = epoch_batches(rows, self.options.batch_size, seed=self.options.rows.seed, epoch=epoch)
        # Losses are added up on the device: reading each of them would make the CPU wait for the GPU at every
        # step.
        total = torch.zeros((), device=self.backbone.device)
        with self._seeded(epoch):
            self.network.train()
            images = self.loader.training_batches([batch.tolist() for batch in batches], epoch=epoch)
            for step, (batch, pixels) in enumerate(zip(batches, images, strict=True)):
                total += self.step(pixels, batch, epoch * len(batches) + step) * len(batch)
                seen(len(batch))
        return float(total) / len(rows)

    def step(self, pixels: torch.Tensor, rows: Rows, number: int) -> torch.Tensor:
        """Take step `number`, from 0, on a batch; return the mean loss of the batch."""
        # The rate is a function of the number of the step, so that a resumed training needs no old schedule.
        self._schedule.step_update(number + 1)
        with self._arithmetic():
            target = to_device(torch.from_numpy(self.targets[rows]), self.backbone.device)
            loss = functional.cross_entropy(
                self._logits(pixels), target, label_smoothing=self.options.label_smoothing
            )
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.options.clip_grad:
                torch.nn.utils.clip_grad_norm_(self.network.parameters, self.options.clip_grad)
            self._optimizer.step()
        return loss.detach()

    def step_bytes(self, pixels: torch.Tensor, n_images: int) -> int:
        """Return about how much memory a step on `n_images` takes, from forward passes of few.

        What a pass keeps for the way back is a part that grows with the images, told by passes of half and of
        all of the few, and a part that does not, such as weights in another precision. Gradients and the
        optimizer's moments have the size of what is trained. Statistics of batch norms move; `begin` puts
        them back.

        Parameters
        ----------
        pixels : Tensor of shape (b, h, w, 3)
            A few images, an even number of at least four, because batch norms need two.
        n_images : int
            Images of the step.
        """
        half = len(pixels) // 2
        less, more = self._kept_bytes(pixels[:half]), self._kept_bytes(pixels)
        of_image = max(0, more - less) // half
        own = MOMENT_BYTES * (1 + MOMENTS[self.options.optimizer]) * self.network.n_trained
        return max(0, less - half * of_image) + n_images * of_image + own

    def _kept_bytes(self, pixels: torch.Tensor) -> int:
        """Return the bytes that a forward pass keeps for the way back, beside the network."""
        model = self.network.model
        own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
        kept: dict[int, int] = {}

        def note(value: torch.Tensor) -> torch.Tensor:
            storage = value.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return value

        self.network.train()
        # What the hooks return is held until the pass has ended, so that no address is counted twice.
        with (
            self._seeded(0),
            self._arithmetic(),
            torch.autograd.graph.saved_tensors_hooks(note, lambda value: value),
        ):
            logits = self._logits(pixels)
        del logits
        return sum(kept.values())

    def score(self, rows: Rows, *, seen: Seen) -> Scores:
        """Classify rows, in batches as large as in training."""
        self.network.model.eval()
        size = self.options.batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        found = []
        with torch.no_grad(), self._arithmetic():
            images = self.loader.batches([batch.tolist() for batch in batches])
            for batch, pixels in zip(batches, images, strict=True):
                found.append(self._logits(pixels).cpu())
                seen(len(batch))
        logits = torch.cat(found)
        target = torch.from_numpy(self.targets[rows])
        return Scores(
            logits=logits.numpy(),
            loss=float(functional.cross_entropy(logits, target)),
            accuracy=float((logits.argmax(dim=1) == target).double().mean()),
        )

    def _logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the network on pixels ``(b, h, w, 3)``; the logits are float32 in either precision."""
        device = self.backbone.device
        inputs = self.backbone.transform.normalize(to_device(pixels, device))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            logits: torch.Tensor = self.network.model(inputs)
        return logits.float()

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Compute as the precision says and as repeatably as the device can; tell what to do if it is full.

        In fp32, convolutions and linear layers are float32 alike, forwards and backwards. On CUDA, cuDNN
        takes the same algorithms in every run. Other kernels of backward passes add in an order that varies.
        """
        device, size = self.backbone.device, self.options.batch_size
        smaller = f"a --batch-size below {size}, " if size > 1 else ""
        room = explained_out_of_memory(
            f"fine-tuning {self.backbone.name} in batches of {size}",
            device=device,
            knobs=f"give {smaller}a smaller --img-size or --model, or train less of it (--depth)",
        )
        with (
            room,
            full_precision() if self.precision == "fp32" else nullcontext(),
            fixed_algorithms() if device.type == "cuda" else nullcontext(),
        ):
            yield

    def _seeded(self, epoch: int) -> AbstractContextManager[None]:
        """Seed dropout and stochastic depth by the epoch; a resumed epoch then drops what it would have."""
        return seeded(hash_of(self.options.rows.seed, f"epoch\0{epoch}"), self.backbone.device)


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move values to the device of the network; the caller does not wait for a CUDA device."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators inside the block, and restore their states at its end."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield


def n_batches(n_rows: int, batch_size: int) -> int:
    """Return the number of steps of an epoch."""
    return -(-n_rows // batch_size)


def epoch_batches(rows: Rows, batch_size: int, *, seed: int, epoch: int) -> list[Rows]:
    """Shuffle rows for an epoch and cut them into batches whose sizes differ by one at most.

    A small last batch would give its images more weight, and batch norms cannot train on a single image.
    """
    order = np.random.default_rng(hash_of(seed, f"order\0{epoch}")).permutation(rows)
    return np.array_split(order, n_batches(len(rows), batch_size))


def cosine_schedule(optimizer: torch.optim.Optimizer, *, n_steps: int, n_warmup: int) -> CosineLRScheduler:
    """Make a schedule of linear warm-up and half a cosine (Loshchilov & Hutter 2017), with timm.

    Update u = 1 ... T takes the peak rate times u / W during the W updates of warm-up. Later updates take the
    peak rate times (1 + cos(pi (u - W) / (T - W + 1))) / 2. Neither the first nor the last update has a rate
    of 0, which would waste the update.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer, whose rates are the peaks.
    n_steps, n_warmup : int
        Number T of updates, and number W of updates of warm-up.
    """
    return CosineLRScheduler(
        optimizer,
        t_initial=n_steps - n_warmup + 1,
        warmup_t=n_warmup,
        warmup_prefix=True,
        t_in_epochs=False,
    )
