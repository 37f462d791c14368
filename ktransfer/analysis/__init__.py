"""From records to numbers, with NumPy alone.

- `record`: what a record is, field by field.
- `outcomes`: what came out of runs, as numbers.
- `arms`: records in groups: arms, cells, the baseline.
- `intervals`: intervals, tests, and gains over a baseline.
- `remarks`: what figures, tables and pages say of their records.
- `words`: numbers and names as text.
"""
