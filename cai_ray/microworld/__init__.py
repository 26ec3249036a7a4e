"""The micro world: a small synthetic language whose harm is known, and a tiny model that speaks it.

words      the vocabulary: topics, verbs, things, tools, reasons
language   tasks, requests and answers made from the words; train and held-out requests never overlap
oracle     the ground truth: scores any answer by parsing it
dialogues  what the micro model learns from: assistance, critiques, revisions, comparisons, new requests
tokenizer  byte-level tokenizer with one token per word of the language, and its chat template
batches    the dialogues encoded, weighted and batched for training
pretrain   trains the micro model from scratch on a CPU and caches it
shipped    the weights of seed 0, which come along, and where they come from
prompt_set writes a JSONL file of prompts for the pipeline
"""
