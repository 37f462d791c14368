"""Distillation: a small student learns the softened answers of a teacher.

L = (1 - strength) CE(y, z) + strength T^2 KL(softmax(z_teacher / T),
softmax(z / T)), T the `temperature`. The student is the default network with
fresh weights. The teacher is the source if it answers the target's classes,
else the source fine-tuned with `teacher_share` of the steps (0.5 is ours).
Temperature 4 and strength 0.9 are those of RepDistiller and of the attention
transfer code; the paper's MNIST runs use 20.

Row: M14 (article 001, section 1; article 000, references).
Source: Hinton, Vinyals and Dean 2015. https://arxiv.org/abs/1503.02531
"""

from ktransfer.engine.kinds import NotNegative, Positive, Share
from ktransfer.stages.heads import small_network
from ktransfer.stages.teachers import distill, teacher


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    temperature: Positive = 4.0,
    strength: NotNegative = 0.9,
    teacher_share: Share = 0.5,
    **training,
):
    teach, left = teacher(
        target, source, steps=steps, share=teacher_share, seed=seed, **training
    )
    student = small_network(target, seed, name="student")
    distill(
        student,
        target,
        teach,
        steps=left,
        seed=seed,
        temperature=temperature,
        strength=strength,
        **training,
    )
    return student
