"""One image through a trained network: python docs/examples/predict.py RUN RESULTS IMAGE MASK

RUN is a run_id, its beginning or method/seed (kd/0); MASK is the file for the class indices.
"""

import sys

import numpy as np
import torch
from PIL import Image, ImageOps

import harness

run, results, image_file, mask_file = sys.argv[1:5]
student = harness.load_student(run, results)

with Image.open(image_file) as opened:
    pixels = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255  # (1, 3, H, W), RGB in 0 to 1

with torch.no_grad():
    classes = student(image).argmax(dim=1)[0]  # (H, W)

mask = Image.fromarray(classes.byte().numpy())
mask.putpalette(np.array(student.palette, np.uint8).tobytes())
mask.save(mask_file)
for index in classes.unique().tolist():
    print(f"{student.class_names[index]}: {(classes == index).float().mean():.1%}")
