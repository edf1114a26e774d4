"""Images and the captions of their classes find each other in the space of a text encoder.

Legend: n images of a micro-batch, C classes, T tokens, D width of the student, E of the text encoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill_core.errors import SignalError
from distill_core.interfaces import BuildContext
from distill_core.types import LossTerm, StudentView, TeacherSignals, TokenBatch
from distill_objectives.features.layers import Projection
from distill_objectives.features.positions import wide
from distill_objectives.image_text_options import ImageTextContrastiveOptions


class ImageTextContrastive(nn.Module):
    """Image-text contrastive learning (CLIP, arXiv 2103.00020) against a text encoder that stays as it is.

    The student's last hidden state at the place of the class goes through a learned linear map into the encoder's E
    dimensions. An image finds its caption among those of the micro-batch, a caption its images; equal captions are
    positives of each other, so an image of the same class is no negative (UniCL, arXiv 2204.03610, equations 1 to 3):
    with unit vectors u of images and v of captions, ``P(i)`` the k with the caption of i,

        total = sum_i w_i / 2 mean_{k in P(i)} (-log softmax_k(u_i v_k / tau) - log softmax_k(u_k v_i / tau))

    The text encoder teaches: classes whose captions it finds alike stay near each other. It needs no pairs of images
    and free texts, and no teacher of images; CLIP's learned temperature and its batch of 32,768 are not reproduced.
    The map is kept in checkpoints and not exported.

    It compares images with each other, so the micro-batch matters: gradient accumulation averages micro-batches.

    Args:
        options: ``encoder``, ``captions``, ``revision``, ``temperature``.

    Raises:
        SignalError: the encoder cannot be loaded, the run has no task with one class per sequence, or there are fewer
            captions than classes.

    >>> one_of_each = torch.eye(2)
    >>> image_text_nce(one_of_each, one_of_each, torch.tensor([0, 1]), temperature=1.0).tolist()  # log(1 + 1 / e)
    [0.31326165795326233, 0.31326165795326233]
    """

    name = "image-text-contrastive"
    exported = False

    def __init__(self, options: ImageTextContrastiveOptions) -> None:
        super().__init__()
        self.options = options
        self.properties = {"nonnegative": True, "additive": False}
        self.texts = sorted(set(options.captions))
        self.text_of_class = [self.texts.index(caption) for caption in options.captions]
        self.texts_CE: Tensor | None = None
        self.projection: Projection | None = None

    def build(self, ctx: BuildContext) -> None:
        """Encode the captions once, and make the map from the run's seed, on the student's device, in fp32."""
        device = next(ctx.student.parameters()).device
        width = getattr(ctx.student.config, "hidden_size", None) or ctx.student.config.hidden_sizes[-1]
        self.texts_CE = encode(self.texts, self.options).to(device)
        generator = torch.Generator().manual_seed(ctx.seed)
        self.projection = Projection(int(width), self.texts_CE.shape[1], generator=generator, device=device)

    def forward(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        """The sum over the images, and as a metric the share of them whose caption is the nearest of all."""
        if self.texts_CE is None or self.projection is None:
            raise RuntimeError(f"{self.name}: call build(ctx) before the first batch")
        text_n = self._texts_of(batch)
        rows = batch.rows()
        with torch.autocast(student.hidden_states[-1].device.type, enabled=False):
            seen_nD = wide(rows.select(student.hidden_states[-1]))
            image_nE = nn.functional.normalize(self.projection(seen_nD), dim=-1)
            texts_CE = self.texts_CE.to(image_nE.dtype)
            value_n = image_text_nce(image_nE, texts_CE[text_n], text_n, temperature=self.options.temperature)
            total = (rows.weights_N.to(value_n.dtype) * value_n).sum()
            nearest_n = (image_nE.detach() @ texts_CE.T).argmax(dim=1)
        return LossTerm(total, {"caption_found": float((nearest_n == text_n).sum())})

    def _texts_of(self, batch: TokenBatch) -> Tensor:
        """[n] which caption each image has."""
        if batch.next_token:
            raise SignalError(
                f"{self.name} reads the class of each image, but this run predicts next tokens; give the run a task "
                "with one class per image, e.g. task: {use: image-classification, ...}"
            )
        class_n = batch.rows().labels_N
        if len(class_n) and int(class_n.max()) >= len(self.text_of_class):
            raise SignalError(
                f"{self.name}: an image is of class {int(class_n.max())}, but captions names {len(self.text_of_class)} "
                "classes (from 0); give one caption per label of the task, in their order"
            )
        return torch.tensor(self.text_of_class, device=class_n.device)[class_n]

    def __call__(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        result: LossTerm = super().__call__(student, teacher, batch)
        return result


def image_text_nce(image_nE: Tensor, caption_nE: Tensor, text_n: Tensor, *, temperature: float) -> Tensor:
    """[n] values in nat of images and captions, unit vectors in pairs; equal numbers in ``text_n`` are one caption."""
    logits_nn = image_nE @ caption_nE.T / temperature
    positive_nn = (text_n[:, None] == text_n[None, :]).to(logits_nn.dtype)
    share_nn = positive_nn / positive_nn.sum(dim=1, keepdim=True)
    to_text_n = -(share_nn * logits_nn.log_softmax(dim=1)).sum(dim=1)
    to_image_n = -(share_nn * logits_nn.log_softmax(dim=0).T).sum(dim=1)
    return (to_text_n + to_image_n) / 2


@torch.no_grad()
def encode(texts: list[str], options: ImageTextContrastiveOptions) -> Tensor:
    """[C, E] unit vectors in fp32: means of the encoder's last hidden state over the tokens of each text.

    Raises:
        SignalError: the encoder or its tokenizer cannot be loaded.
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(options.encoder, revision=options.revision)
        model: Any = AutoModel.from_pretrained(options.encoder, revision=options.revision, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SignalError(
            f"image-text-contrastive: the text encoder {options.encoder} cannot be loaded ({reason}); give encoder a "
            "directory that `save_pretrained` wrote with its tokenizer, a hub id, or package:NAME/DIRECTORY"
        ) from error
    read = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    states_CTE = model(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).last_hidden_state
    mask_CT1 = read["attention_mask"][:, :, None].to(states_CTE.dtype)
    return nn.functional.normalize((states_CTE * mask_CT1).sum(1) / mask_CT1.sum(1), dim=-1)
