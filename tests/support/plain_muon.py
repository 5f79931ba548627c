"""Muon and AdamW of PyTorch, as a reference."""

import torch

from ldarnet.runtime.muon import MATRIX_ROWS


class PlainMuon:
    """`torch.optim.Muon` for each matrix of Muon's groups, and `torch.optim.AdamW` for the other groups."""

    def __init__(self, groups, config):
        self.param_groups, self.parts = groups, []
        adamw = [group for group in groups if MATRIX_ROWS not in group]
        self.optimizers = [(torch.optim.AdamW(adamw, betas=config.betas, eps=config.eps), None)]
        for group in groups:
            for parameter, rows in zip(group["params"], group.get(MATRIX_ROWS, ()), strict=False):
                parts = parameter.detach().split(rows)
                self.parts.append((parameter, rows, parts))
                muon = torch.optim.Muon(parts, weight_decay=group["weight_decay"], adjust_lr_fn="match_rms_adamw")
                self.optimizers.append((muon, group))

    def step(self):
        for parameter, rows, parts in self.parts:
            for part, gradient in zip(parts, parameter.grad.split(rows), strict=True):
                part.grad = gradient
        for optimizer, group in self.optimizers:
            if group is not None:
                optimizer.param_groups[0]["lr"] = group["lr"]
            optimizer.step()

    def zero_grad(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
