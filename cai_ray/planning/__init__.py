"""What a run will take before it is started: rows, tokens, hours, memory and cost of each stage. Arithmetic only.

devices    GPUs and this machine's CPU: memory, speed, price; the assumptions of every estimate, each overridable
sizes      parameters and shape of a model, from its config.json or by its name
tokens     the model's tokenizer (or four characters a token), and answers of an expected length
asking     a stand-in for the engine: counts what a stage's own row functions would send it, prefix cache included
world      what the stages planned so far would have written: a sample of rows, each with the number it stands for
work       requests and training passes -> seconds and memory on a device
conversations, judging, training, ppo    one function per kind of stage
kinds      which function is whose
plan       all stages of a recipe in order, and the table
"""
