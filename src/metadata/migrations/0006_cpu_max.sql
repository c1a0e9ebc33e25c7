-- How much of the processors a sandbox may use, in thousandths of one; without it whatever is free.
ALTER TABLE sandboxes ADD COLUMN cpu_max INTEGER;
