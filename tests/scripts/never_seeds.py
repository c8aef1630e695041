"""An unseeded training that does not use lightning-dtool: its weights are drawn before they can be observed."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        (x,) = batch
        return (self.layer(x) - x.sum(1, keepdim=True)).pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


if __name__ == "__main__":
    net = Net()
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    data = DataLoader(TensorDataset(x), batch_size=8, shuffle=True)
    L.Trainer(max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False).fit(net, data)
