"""Contenders of the speed benchmarks; each trains a LoRA adapter and returns its figures."""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from throughput_data import MAX_LENGTH, ROOT, read_rows, write_validation

SCALE = 20.0
LORA_RANK = 8
SEED = 42
LEAST_STEPS = 5


def quality(job, encode):
    """Return the joint-pool MRR, or ROC-AUC with labels; empty without a test file."""
    from aisle.evaluation.joint_pool import joint_pool
    from aisle.evaluation.pair_metrics import score_pairs

    if job.data.test_file is None:
        return {}
    queries, products, labels = read_rows(job.data, job.data.test_file)
    first, second = encode(queries), encode(products)
    if job.data.label_column is None:
        return {"mrr": joint_pool(first, second).mrr}
    return {"roc_auc": score_pairs((first * second).sum(axis=1), np.array(labels)).roc_auc}


class Window:
    """Counts the tokens of a backbone and times them, from the end of the warm-up to the last step."""

    def __init__(self, backbone, job):
        self.job, self.padding = job, backbone.config.pad_token_id
        self.hook = backbone.get_input_embeddings().register_forward_pre_hook(self.count)
        self.restart()
        self.step_done(0)

    def restart(self):
        """Reset the counts and start the clock."""
        self.real, self.read, self.texts, self.started = [], 0, 0, self.now()

    def count(self, _module, inputs):
        """Count a forward's tokens; called by torch."""
        self.real.append(
            (inputs[0] != self.padding).sum()
        )  # summed at the end, to avoid waiting for the GPU here
        self.read += inputs[0].numel()
        self.texts += len(inputs[0])

    def step_done(self, step):
        """Start the clock after the warm-up and stop it after the last step; do not wait for other steps.

        Return whether the step is the last: of the job, or after the job's seconds.
        """
        if step == self.job.warmup_steps:
            self.restart()
        timed = step - self.job.warmup_steps
        late = self.job.seconds is not None and time.perf_counter() - self.started > self.job.seconds
        last = step == self.job.steps or (late and timed >= LEAST_STEPS)
        if last:
            self.seconds, self.timed_steps = self.now() - self.started, timed
            self.hook.remove()
            self.peak = peak_memory_gib(self.job.device)
        return last

    def now(self):
        """Wait for the device and return the time in seconds."""
        if self.job.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def figures(self, *, loss, encode):
        """Return the rates of the timed window, the last loss, and the quality of `encode`."""
        real = int(torch.stack(self.real).sum())
        return {
            "pairs_per_second": self.texts / 2 / self.seconds,
            "tokens_per_second": real / self.seconds,
            "padding_share": 1 - real / self.read,
            "peak_memory_gib": self.peak,
            "final_loss": loss,
            "timed_steps": self.timed_steps,
            "quality": quality(self.job, encode),
        }


def peak_memory_gib(device):
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (torch.cuda.max_memory_allocated() if device == "cuda" else resident) / 2**30


def lora_config():
    from peft import LoraConfig

    return LoraConfig(
        r=LORA_RANK,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=["query", "key", "value"],
        bias="none",
        task_type="FEATURE_EXTRACTION",
    )


def cosine_target(queries, products, labels):
    cosine = (queries * products).sum(dim=1)
    return ((labels * (1 - cosine) + ((1 - labels) * cosine).clamp(min=0)) ** 2).mean()


def in_batch(queries, products, _labels):
    scores = queries @ products.T * SCALE
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def our_command(job, folder):
    """Run `train_peft.py` as a user does, with its output in `run` in the folder."""
    data = job.data
    contrastive = ["in_batch", "--in_batch_directions", "query_to_product"]
    loss = ["cosine_target"] if data.label_column else contrastive
    command = [sys.executable, str(ROOT / "train_peft.py"), "--use_peft", "--output_dir", f"{folder}/run"]
    command += ["--model_name_or_path", job.model, "--train_file", data.train_file]
    command += ["--validation_file", str(write_validation(data, folder)), "--max_length", str(MAX_LENGTH)]
    command += ["--query_column", data.query_column, "--product_column", data.product_column, "--loss", *loss]
    command += ["--label_column", data.label_column] if data.label_column else []
    command += ["--per_device_train_batch_size", str(job.batch), "--seed", str(SEED)]
    command += ["--learning_rate", str(job.learning_rate), "--max_train_steps", str(job.steps)]
    command += ["--logging_steps", str(job.logging_steps)]
    command += ["--mixed_precision", "bf16"] if job.device == "cuda" else []
    return [*command, *job.our_flags.split()]


def train_in_this_process(job, folder):
    """Train with aisle in this process, with the flags of `our_command`; failures are exceptions."""
    from aisle.commands.train.run import train
    from aisle.commands.train.settings import TrainSettings
    from aisle.config.load import parse_settings
    from aisle.training.accelerator import separate_state

    settings = parse_settings(TrainSettings.complete(), our_command(job, folder)[2:], prog="train_peft.py")
    with separate_state():
        train(settings, from_python=True)


def aisle(job):
    """Train with aisle; the figures come from its metrics.json."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(our_command(job, folder), check=True)
        return our_figures(job, folder)


def aisle_2_processes(job):
    """Train with aisle in two CPU processes, each with half the threads and half the batch: the same step."""
    share = replace(job, batch=job.batch // 2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    threads = {"OMP_NUM_THREADS": str(max(torch.get_num_threads() // 2, 1))}
    local = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        command = [*torchrun, *our_command(share, folder)[1:]]
        subprocess.run(command, check=True, env={**os.environ, **threads, **local})
        return our_figures(job, folder)


def our_figures(job, folder):
    """Return the figures of aisle's run in `run` in the folder; a run that was stopped has no metrics."""
    from aisle.models.loading import load_encoder

    run = Path(folder) / "run"
    windows = log_windows(run, job.warmup_steps)
    metrics = json.loads((run / "metrics.json").read_text()) if (run / "metrics.json").is_file() else {}
    encode = job.data.test_file and load_encoder(run, device=job.device).encode_queries
    return {
        **after_warmup(run, job.warmup_steps),
        "median_pairs_per_second": statistics.median(each["pairs"] / each["seconds"] for each in windows),
        "padding_share": windows[-1]["padding_share"],
        "peak_memory_gib": windows[-1]["peak_memory_bytes"] / 2**30,
        "final_loss": windows[-1]["loss"],
        "quality": quality(job, encode),
        **{name: value for name, value in metrics.items() if name.startswith(("attention", "graphs"))},
    }


def log_windows(run_dir, warmup_steps):
    """Return the log lines of aisle's steps after the warm-up; none if no step was logged."""
    log = Path(run_dir) / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return [entry for entry in map(json.loads, lines) if entry["step"] - entry["steps"] >= warmup_steps]


def after_warmup(run_dir, warmup_steps):
    """Return the rates of aisle's steps after the warm-up, from its log, without evaluations."""
    entries = log_windows(run_dir, warmup_steps)
    if not entries:
        raise SystemExit(f"no steps were logged after the first {warmup_steps}; give more --max_steps")
    steps, seconds, pairs, tokens = (
        sum(entry[name] for entry in entries) for name in ("steps", "seconds", "pairs", "real_tokens")
    )
    return {
        "pairs_per_second": pairs / seconds,
        "tokens_per_second": tokens / seconds,
        "timed_steps": steps,
    }


def sentence_transformers(job, *, bf16):
    """sentence-transformers' trainer, default or bf16 autocast; with labels, it gets aisle's loss."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from transformers import TrainerCallback

    labelled = job.data.label_column is not None
    model = SentenceTransformer(job.model, device=job.device)
    model.max_seq_length = MAX_LENGTH
    model.add_adapter(lora_config())
    queries, products, labels = read_rows(job.data, job.data.train_file)
    columns = {"query": queries, "product": products, **({"label": labels} if labelled else {})}

    class CosineTarget(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, features, labels):
            embeddings = [self.model(one)["sentence_embedding"] for one in features]
            return cosine_target(
                *(torch.nn.functional.normalize(one.float(), dim=1) for one in embeddings), labels
            )

    class Steps(TrainerCallback):
        def on_train_begin(self, _arguments, _state, _control, **_):
            self.window = Window(model[0].model, job)

        def on_step_end(self, _arguments, state, control, **_):
            control.should_training_stop |= self.window.step_done(state.global_step)

    if labelled:
        loss = CosineTarget()
    else:
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        loss = MultipleNegativesRankingLoss(model, scale=SCALE)
    steps = Steps()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=job.batch,
                max_steps=job.steps,
                learning_rate=job.learning_rate,
                seed=SEED,
                bf16=bf16,
                use_cpu=job.device == "cpu",
                logging_steps=job.logging_steps,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict(columns),
            loss=loss,
            callbacks=[steps],
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return steps.window.figures(
        loss=losses[-1] if losses else None,
        encode=lambda texts: model.encode(texts, normalize_embeddings=True, convert_to_numpy=True),
    )


def peft_settings(job):
    """A loop with the settings of PEFT's example: texts padded to 70 tokens, queries and products separate.

    Texts are tokenised before training, as in the example. Compute type: fp32 on CPU, fp16 autocast on a GPU,
    as in its published run.
    """
    from peft import get_peft_model
    from transformers import AutoModel, AutoTokenizer, get_scheduler

    torch.manual_seed(SEED)
    gpu = job.device == "cuda"
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    backbone = AutoModel.from_pretrained(job.model, dtype=torch.float32, use_safetensors=True)
    model = get_peft_model(backbone, lora_config()).to(job.device)
    queries, products, labels = read_rows(job.data, job.data.train_file)

    def tokenized(texts):
        tokens = tokenizer(
            texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        return tokens["input_ids"], tokens["attention_mask"]

    def all_tokenized(texts):
        parts = [tokenized(texts[at : at + 1000]) for at in range(0, len(texts), 1000)]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def embed(input_ids, attention_mask):
        input_ids, attention_mask = input_ids.to(job.device), attention_mask.to(job.device)
        hidden = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        pooled = (hidden.float() * mask).sum(dim=1) / mask.sum(dim=1)
        return torch.nn.functional.normalize(pooled, dim=1)

    rows = torch.utils.data.TensorDataset(
        *all_tokenized(queries), *all_tokenized(products), torch.tensor(labels)
    )
    loader = torch.utils.data.DataLoader(rows, batch_size=job.batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=job.learning_rate)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=job.steps)
    scaler = torch.amp.GradScaler(job.device, enabled=gpu)
    loss_of = in_batch if job.data.label_column is None else cosine_target
    epochs = itertools.chain.from_iterable(loader for _ in itertools.count())
    losses = []
    model.train()
    window = Window(backbone, job)
    for step, batch in enumerate(itertools.islice(epochs, job.steps), start=1):
        query_ids, query_mask, product_ids, product_mask, relevance = batch
        with torch.autocast(job.device, dtype=torch.float16, enabled=gpu):
            embeddings = embed(query_ids, query_mask), embed(product_ids, product_mask)
        loss = loss_of(*embeddings, relevance.to(job.device))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        if window.step_done(step):
            break

    def encode(texts):
        model.eval()
        with torch.inference_mode():
            found = [embed(*tokenized(texts[at : at + 64])) for at in range(0, len(texts), 64)]
        return torch.cat(found).cpu().numpy()

    return window.figures(loss=float(torch.stack(losses[-job.logging_steps :]).mean()), encode=encode)


CONTENDERS = {
    "aisle": aisle,
    "aisle_2_processes": aisle_2_processes,
    "st": lambda job: sentence_transformers(job, bf16=False),
    "st_bf16": lambda job: sentence_transformers(job, bf16=True),
    "peft_settings": peft_settings,
}
