"""The projector P, which maps a student's hidden states into the teacher's space."""

from torch import Tensor, nn

from contra.precision import never_fp16


class Projector(nn.Module):
    """W · LayerNorm(h) + b: `[..., D_s] -> [..., D_t]`, in the precision of its weights (fp32)."""

    def __init__(self, student_size: int, teacher_size: int):
        super().__init__()
        self.student_size = student_size
        self.teacher_size = teacher_size
        self.norm = nn.LayerNorm(student_size)
        self.linear = nn.Linear(student_size, teacher_size)

    @never_fp16
    def forward(self, hidden_states: Tensor) -> Tensor:
        weight = self.linear.weight
        return self.linear(self.norm(hidden_states.to(weight.dtype))).to(weight.dtype)  # autocast may have made it bf16
