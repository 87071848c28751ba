"""CGCNN the way the original program works, for comparison: one Python object after another.

Written anew from the published description of the method. Neighbours are pymatgen objects, found
for one structure at a time and sorted in Python; every edge carries its 41 Gaussians; batches are
collated from lists; the convolution multiplies the joined features of every edge; crystals are
pooled one by one. Nothing of this is imported by the package.
"""

import numpy as np
import torch
from pymatgen.core import Lattice, Structure
from torch import nn
from torch.utils.data import DataLoader, Dataset

RADIUS, MOST_NEIGHBORS, STEP = 8.0, 12, 0.2


def structures_of(batch):
    """Pymatgen structures of a batch of crystals."""
    found = []
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        found.append(
            Structure(
                Lattice(batch.lattice[i].numpy()),
                batch.atomic_numbers[rows].tolist(),
                batch.frac_coords[rows].numpy(),
            )
        )
    return found


def graph_of(structure, element_table):
    """Element features, Gaussians of the distances, and rows of the neighbours of one structure."""
    atoms = np.vstack([element_table[site.specie.Z] for site in structure])
    everything = structure.get_all_neighbors(RADIUS, include_index=True)
    everything = [sorted(near, key=lambda neighbor: neighbor[1]) for near in everything]
    rows, distances = [], []
    for near in everything:
        missing = MOST_NEIGHBORS - len(near)
        near = near[:MOST_NEIGHBORS]
        rows.append([neighbor[2] for neighbor in near] + [0] * missing)
        distances.append([neighbor[1] for neighbor in near] + [RADIUS + 1.0] * missing)
    return torch.Tensor(atoms), expanded(np.array(distances)), torch.LongTensor(np.array(rows))


def expanded(distances):
    """Gaussians of distances."""
    centers = np.arange(0.0, RADIUS + STEP, STEP)
    return torch.Tensor(np.exp(-((distances[..., None] - centers) ** 2) / STEP**2))


class Structures(Dataset):
    """Structures with targets; graphs are kept once they were made."""

    def __init__(self, structures, targets, element_table):
        self.structures, self.targets = structures, targets
        self.element_table = element_table
        self.made = {}

    def __len__(self):
        return len(self.structures)

    def __getitem__(self, i):
        if i not in self.made:
            self.made[i] = graph_of(self.structures[i], self.element_table)
        return self.made[i], torch.Tensor([float(self.targets[i])])


def collate(samples):
    """One batch from a list of samples."""
    atoms, features, rows, crystals, targets = [], [], [], [], []
    start = 0
    for (own_atoms, own_features, own_rows), target in samples:
        n = own_atoms.shape[0]
        atoms.append(own_atoms)
        features.append(own_features)
        rows.append(own_rows + start)
        crystals.append(torch.LongTensor(np.arange(n) + start))
        targets.append(target)
        start += n
    joined = (torch.cat(atoms), torch.cat(features), torch.cat(rows), crystals)
    return joined, torch.stack(targets)


def loader_of(data, *, is_shuffled, batch_size=256):
    """Batches as the original deals them out."""
    return DataLoader(data, batch_size=batch_size, shuffle=is_shuffled, collate_fn=collate)


class Convolution(nn.Module):
    """The gated convolution on joined features."""

    def __init__(self, width, n_edge_features):
        super().__init__()
        self.width = width
        self.full = nn.Linear(2 * width + n_edge_features, 2 * width)
        self.sigmoid, self.softplus = nn.Sigmoid(), nn.Softplus()
        self.edge_norm, self.norm = nn.BatchNorm1d(2 * width), nn.BatchNorm1d(width)
        self.softplus_after = nn.Softplus()

    def forward(self, atoms, features, rows):
        """New atom features."""
        n, m = rows.shape
        others = atoms[rows, :]
        joined = torch.cat([atoms.unsqueeze(1).expand(n, m, self.width), others, features], dim=2)
        gates = self.full(joined)
        gates = self.edge_norm(gates.view(-1, 2 * self.width)).view(n, m, 2 * self.width)
        gate, core = gates.chunk(2, dim=2)
        summed = torch.sum(self.sigmoid(gate) * self.softplus(core), dim=1)
        return self.softplus_after(atoms + self.norm(summed))


class Network(nn.Module):
    """The whole network, with its published sizes."""

    def __init__(self, n_features=92, n_edge_features=41, width=64, hidden=128, n_layers=3):
        super().__init__()
        self.embed = nn.Linear(n_features, width)
        self.layers = nn.ModuleList(Convolution(width, n_edge_features) for _ in range(n_layers))
        self.after, self.softplus = nn.Linear(width, hidden), nn.Softplus()
        self.out = nn.Linear(hidden, 1)

    def forward(self, atoms, features, rows, crystals):
        """One number for each crystal."""
        atoms = self.embed(atoms)
        for layer in self.layers:
            atoms = layer(atoms, features, rows)
        pooled = torch.cat([torch.mean(atoms[own], dim=0, keepdim=True) for own in crystals])
        return self.out(self.softplus(self.after(self.softplus(pooled))))


def train_epoch(network, optimizer, loader, mean, std):
    """One pass over the training data."""
    network.train()
    criterion = nn.MSELoss()
    for inputs, targets in loader:
        loss = criterion(network(*inputs), (targets - mean) / std)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        float(loss.detach())  # the original keeps a running mean


def predict(network, loader, mean=0.0, std=1.0):
    """Predictions in order of the data."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(*inputs) * std + mean for inputs, _ in loader]).flatten()
