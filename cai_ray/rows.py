"""Every Arrow schema of the project, one per kind of row, and the closed set of reasons a row is dropped.

Parquet files are zstd. Ids are 32 lower-case hexadecimal characters (128 bits). Text is Unicode NFC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    pass

MESSAGE = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),  # "system" | "user" | "assistant"
        pa.field("content", pa.string(), nullable=False),
    ]
)

# One prompt: a conversation that waits for the assistant.
PROMPT = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),  # prompt_id_of(messages, source)
        pa.field("messages", pa.list_(MESSAGE), nullable=False),  # >= 1, ends in role "user"
        pa.field("kind", pa.string(), nullable=False),  # "red_team": critiqued and revised | "helpful": answered only
        pa.field("source", pa.string(), nullable=False),  # name of the prompt set
        pa.field(
            "source_row", pa.string(), nullable=False
        ),  # "<source>:<record number>" or "expand/<ask>/<k>", unique in a run
        pa.field("category", pa.string()),
        pa.field("split", pa.string(), nullable=False),  # "train" | "test"
        pa.field("license", pa.string()),
    ]
)

# One critique-and-revision round.
REVISION_ROUND = pa.struct(
    [
        pa.field("principle_id", pa.string(), nullable=False),
        pa.field("critique", pa.string()),  # null: direct revision, nothing was critiqued
        pa.field("revision", pa.string(), nullable=False),  # after cleaning
        pa.field("flags", pa.list_(pa.string()), nullable=False),  # cleaning rules that fired, gates that flagged
    ]
)

# The whole dialogue of one (prompt, sample): initial answer, then each round.
REVISION = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),  # >= 0
        pa.field("kind", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("license", pa.string()),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("initial_response", pa.string(), nullable=False),  # after cleaning
        pa.field("initial_flags", pa.list_(pa.string()), nullable=False),
        pa.field("revisions", pa.list_(REVISION_ROUND), nullable=False),  # [num_revisions]; empty for "helpful"
        pa.field("thinking", pa.list_(pa.string())),  # [num_asks], null unless the model thinks aloud
        pa.field("finish_reasons", pa.list_(pa.string()), nullable=False),  # [num_asks]: "stop" | "length"
        pa.field("num_neutralised", pa.int32(), nullable=False),  # control tokens defused in the prompt's text
        pa.field("num_prompt_tokens", pa.int64(), nullable=False),  # summed over the dialogue's requests
        pa.field("num_cached_tokens", pa.int64(), nullable=False),  # of these, served by the prefix cache
        pa.field("num_output_tokens", pa.int64(), nullable=False),
    ]
)

# One training example of supervised fine-tuning.
SFT_EXAMPLE = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),  # example_id_of(...); of your own: "<set>:<record number>"
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),  # ends in role "assistant": what is learned
        pa.field("source", pa.string(), nullable=False),  # "revised" | "helpful" | "own"
        pa.field("revision_index", pa.int32()),  # 0 is the first revision; null for "helpful" and "own"
        pa.field("weight", pa.float64(), nullable=False),  # expected times per epoch, > 0
        pa.field("split", pa.string(), nullable=False),  # "train" | "eval", decided by prompt
    ]
)

# Several answers of one policy to one prompt, from which pairs are made.
RESPONSES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("responses", pa.list_(pa.string()), nullable=False),  # [samples_per_prompt], in order of sample index
        pa.field("temperatures", pa.list_(pa.float64()), nullable=False),  # [samples_per_prompt]
        pa.field("policy", pa.string(), nullable=False),
        pa.field("finish_reasons", pa.list_(pa.string()), nullable=False),  # [samples_per_prompt]
        pa.field("num_prompt_tokens", pa.int64(), nullable=False),
        pa.field("num_cached_tokens", pa.int64(), nullable=False),
        pa.field("num_output_tokens", pa.int64(), nullable=False),
    ]
)

# Two answers to one prompt, to be compared. Which is A was drawn.
PAIR = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),  # pair_id_of(prompt_id, i, j), i < j; or "<set>:<record>"
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("response_a", pa.string(), nullable=False),
        pa.field("response_b", pa.string(), nullable=False),
        pa.field("temperature_a", pa.float64(), nullable=False),  # NaN: nobody knows, the pair was not sampled here
        pa.field("temperature_b", pa.float64(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),  # name of the model that answered, or of the set
    ]
)

# One reading of a pair by the feedback model: one principle, one order.
COMPARISON = pa.struct(
    [
        pa.field("principle_id", pa.string(), nullable=False),
        pa.field("swapped", pa.bool_(), nullable=False),  # True: the stored B was shown as (A)
        pa.field("logprob_a", pa.float64(), nullable=False),  # nats, of the option that names the stored A
        pa.field("logprob_b", pa.float64(), nullable=False),
        pa.field("prob_a", pa.float64(), nullable=False),  # [0, 1], before clamping, always in the stored order
        pa.field("rationale", pa.string()),  # chain of thought, null without
        pa.field("judge", pa.string()),  # name of the model, of a panel; null: there was one
        pa.field("num_verdicts", pa.int32()),  # sampled and read, >= 1: prob_a is their Beta mean; null: scored
    ]
)

# One labelled pair.
PREFERENCE = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("rejected", pa.string(), nullable=False),
        pa.field("chosen_is_a", pa.bool_(), nullable=False),  # of the pair's stored order
        pa.field("prob_chosen", pa.float64(), nullable=False),  # [0.5, 1]; the soft target
        pa.field("prob_low", pa.float64()),  # 95% interval of prob_chosen from sampled verdicts; null: scored
        pa.field("prob_high", pa.float64()),
        pa.field("order_flip_rate", pa.float64()),  # [0, 1] of the readings done in both orders; null with one order
        pa.field("label_source", pa.string(), nullable=False),  # "ai" | "human"
        pa.field("comparisons", pa.list_(COMPARISON), nullable=False),  # [num_readings]; empty for "human"
        pa.field("flags", pa.list_(pa.string())),  # "judges_part": a panel is not of one mind; null: an older row
        pa.field("num_prompt_tokens", pa.int64(), nullable=False),
        pa.field("num_cached_tokens", pa.int64(), nullable=False),
        pa.field("num_output_tokens", pa.int64(), nullable=False),
    ]
)

# One metric of one answer.
SCORE = pa.struct(
    [
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),  # unit by metric; null: it applies, and could not be judged
        pa.field("judge", pa.string()),  # name of the model that judged; null: none was needed
    ]
)

# What one answer of a model is worth: a sample for a prompt, or its choice on one item of multiple choice.
EVALUATION = pa.schema(
    [
        pa.field("policy", pa.string(), nullable=False),  # name of the model that was evaluated
        pa.field("prompt_id", pa.string(), nullable=False),  # or the item's id
        pa.field("sample_index", pa.int32(), nullable=False),  # >= 0; 0 where there is one answer
        pa.field("cluster", pa.string(), nullable=False),  # answers of one cluster hang together, the others do not
        pa.field("category", pa.string()),
        pa.field("scores", pa.list_(SCORE), nullable=False),  # the metrics that apply, each once
    ]
)

# One answer of one policy, to be judged.
ANSWER = pa.schema(
    [
        pa.field("policy", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),  # >= 0
        pa.field("kind", pa.string(), nullable=False),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("response", pa.string(), nullable=False),
    ]
)

# What one judge, a model, says of one answer.
JUDGEMENT = pa.schema(
    [
        pa.field("policy", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),  # >= 0
        pa.field("scores", pa.list_(SCORE), nullable=False),  # the metrics that apply, each once, none of them null
        pa.field("labels", pa.list_(pa.string()), nullable=False),  # categories that it names; empty for most judges
        pa.field("reply", pa.string()),  # its own words; null where it has none
    ]
)

# Two policies' answers to one prompt, to be compared.
MATCH = pa.schema(
    [
        pa.field("match_id", pa.string(), nullable=False),  # match_id_of(...)
        pa.field("policy_a", pa.string(), nullable=False),  # before policy_b in `evaluate.policies`
        pa.field("policy_b", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),  # >= 0, of both answers
        pa.field("category", pa.string()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("response_a", pa.string(), nullable=False),
        pa.field("response_b", pa.string(), nullable=False),
    ]
)

# One match, judged in both orders.
GAME = pa.schema(
    [
        pa.field("policy_a", pa.string(), nullable=False),
        pa.field("policy_b", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("cluster", pa.string(), nullable=False),  # games of one cluster hang together: the prompt's id
        pa.field("category", pa.string()),
        pa.field("prob_a", pa.float64(), nullable=False),  # [0, 1], P(policy_a's answer is better), mean of both orders
        pa.field("flipped", pa.bool_(), nullable=False),  # the two orders name different winners
        pa.field("judge", pa.string(), nullable=False),
    ]
)

# One answer of the policy in training, of the sample that each step keeps.
ROLLOUT = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),  # >= 1
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),  # >= 0; counts the prompt's answers over the whole run
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("score", pa.float64()),  # the preference model's, raw; null: not a number
        pa.field("kl", pa.float64()),  # nats over the answer from the reference (k3); null: not a number
        pa.field("num_tokens", pa.int32(), nullable=False),  # >= 1, the end token included
        pa.field("truncated", pa.bool_(), nullable=False),  # cut off at max_tokens
        pa.field("policy_version", pa.int32(), nullable=False),  # steps that the weights had learned from
    ]
)


ROW_ID = "row_id"


# What one ask shows: its seeds are of one split, so that no new prompt descends from train and test at once.
SHOTS_SCHEMA = pa.schema(
    [
        pa.field(ROW_ID, pa.string(), nullable=False),  # "expand/<8-digit index>"
        pa.field("split", pa.string(), nullable=False),  # of every seed it shows
        pa.field("category", pa.string()),  # of every seed it shows; null where they differ
        pa.field("shot_ids", pa.list_(pa.string()), nullable=False),  # prompt_id of each seed, [num_shots]
        pa.field("shots", pa.list_(pa.string()), nullable=False),  # their texts
    ]
)


# What the model wrote for one ask.
ASK_SCHEMA = pa.schema(
    [
        pa.field("ask_id", pa.string(), nullable=False),  # the unit's row_id
        pa.field("split", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("shot_ids", pa.list_(pa.string()), nullable=False),
        pa.field("requests", pa.list_(pa.string()), nullable=False),  # >= 1, as parsed, in the order written
        pa.field("truncated", pa.bool_(), nullable=False),  # the last request was cut off at max_tokens
    ]
)


# One pair to learn from. `prompt`, `chosen` and `rejected` are TRL's conversational layout: a stock RewardTrainer or
# DPOTrainer reads the files as they are.
TRAINING_PAIR = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),  # of the label; human pairs: "<source>:<record number>"
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.list_(MESSAGE), nullable=False),  # ends in role "user"
        pa.field("chosen", pa.list_(MESSAGE), nullable=False),  # one message of role "assistant"
        pa.field("rejected", pa.list_(MESSAGE), nullable=False),  # likewise
        pa.field("prob_chosen", pa.float64(), nullable=False),  # [0.5, 1], as labelled; 1 for "human"
        pa.field("label_source", pa.string(), nullable=False),  # "ai" | "human"
        pa.field("weight", pa.float64(), nullable=False),  # expected times per epoch, > 0
        pa.field("split", pa.string(), nullable=False),  # "train" | "eval", decided by prompt
        pa.field("prompt_tokens", pa.list_(pa.int32()), nullable=False),  # empty for a model that scores the whole
        pa.field("chosen_tokens", pa.list_(pa.int32()), nullable=False),  # what follows, to the end of the turn
        pa.field("rejected_tokens", pa.list_(pa.int32()), nullable=False),
    ]
)


EVAL_SCORES = "eval/scores.parquet"  # in a folder: Parquet files beside the manifest are rows of the stage
# One evaluation pair as the finished model scores it.
EVAL_SCORE = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("label_source", pa.string(), nullable=False),  # "ai" | "human"
        pa.field("prob_chosen", pa.float64(), nullable=False),  # [0.5, 1], as labelled
        pa.field("score_chosen", pa.float64(), nullable=False),  # sigmoid(chosen - rejected) is the model's P(chosen)
        pa.field("score_rejected", pa.float64(), nullable=False),
    ]
)


# One question of a multiple-choice file.
ITEM = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),  # what the options' log-probabilities are asked after
        pa.field("corrects", pa.list_(pa.string()), nullable=False),  # options as the prompt names them, e.g. " (A)"
        pa.field("incorrects", pa.list_(pa.string()), nullable=False),
        pa.field("conversation", pa.list_(MESSAGE), nullable=False),  # for preference models: what the texts answer
        pa.field("text_correct", pa.string(), nullable=False),  # the answers themselves
        pa.field("text_incorrect", pa.string(), nullable=False),
        pa.field("cluster", pa.string(), nullable=False),  # items of one conversation hang together
        pa.field("category", pa.string()),
    ]
)
