"""What a concept pack must be: written row by row, balanced, and not solvable by looking at length.

Every rule raises with the rows that break it, so that the author of a pack sees at once what to rewrite. `rules` lists those that
hold for a pack. Run `python tests/pack_rules.py NAME` to check one pack while writing it.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

CONCEPTS = Path(__file__).parents[1] / "src/strandscope/concepts"
WORDS_AT_MOST = dict.fromkeys(("harm", "truth", "sentiment", "certainty"), 0.65)  # formality and Spanish are made of words
SPANISH_STOP_WORDS = frozenset(
    "a al ante aquel aquella así aunque bajo bien cada casi como con cómo cual cuál cuando cuándo cuánto cuántos cuánta "
    "de del desde donde dónde el él ella ellas ellos en entre era es esa ese eso esta está están este esto estos estas "
    "fue ha haber había hace hacer hacia hasta hay la las le les lo los más me mi mis mucho muy nada ni no nos nuestra "
    "nuestro o os otra otro para pero poco por porque puede puedes puedo qué que quién se sea ser si sí siempre sin sobre "
    "solo son soy su sus también tan te tengo tiene tienen todo todos tu tú tus un una uno unos unas usted ya yo debo "
    "debería hago haces podría quiero necesito mejor vez cosas".split()
)
STOP_WORDS = ENGLISH_STOP_WORDS | SPANISH_STOP_WORDS
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+")


def text_of(row: dict) -> str:
    return row["text"] if "text" in row else "\n".join(message["content"] for message in row["messages"])


def load_rows(name: str) -> list[dict]:
    lines = (CONCEPTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def about_pack(name: str) -> dict:
    index = json.loads((CONCEPTS / "index.json").read_text(encoding="utf-8"))
    if name not in index:
        raise AssertionError(f"{name}.jsonl is not in index.json; declare its question, classes, format, language and licence")
    return index[name]


def words(text: str) -> list[str]:
    return [word.lower().replace("’", "'") for word in WORD.findall(text)]


def content_words(text: str) -> frozenset[str]:
    return frozenset(word for word in words(text) if word not in STOP_WORDS and len(word) > 2)


def skeleton(text: str) -> str:
    """The sentence with every run of content words blanked: two fillings of one template share it."""
    blanked = ["_" if word not in STOP_WORDS else word for word in words(text)]
    return " ".join(w for i, w in enumerate(blanked) if w != "_" or i == 0 or blanked[i - 1] != "_")


def are_pair(a: dict, b: dict) -> bool:
    return "pair" in a and a.get("pair") == b.get("pair")


def check_shape(rows: list[dict], *, least_rows: int = 240, least_groups: int = 24) -> None:
    if len(rows) < least_rows:
        raise AssertionError(f"{len(rows)} rows, wanted at least {least_rows}")
    if len({row["id"] for row in rows}) != len(rows):
        raise AssertionError("ids repeat")
    if len({"text" in row for row in rows}) != 1:
        raise AssertionError("raw text and chat are mixed in one pack")
    if {row["label"] for row in rows} != {0, 1}:
        raise AssertionError(f"labels {sorted({row['label'] for row in rows})}, wanted 0 and 1")
    by_group: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        by_group[row["group"]][row["label"]] += 1
    if len(by_group) < least_groups:
        raise AssertionError(f"{len(by_group)} groups, wanted at least {least_groups}")
    lopsided = {group: dict(count) for group, count in by_group.items() if count[0] != count[1]}
    if lopsided:
        raise AssertionError(f"not balanced inside these groups: {lopsided}")


def check_declared(rows: list[dict], about: dict) -> None:
    """The index says whether the rows are raw text or chat; a chat is one user message, never an answer."""
    for row in rows:
        kind = "text" if isinstance(row.get("text"), str) else "chat"
        if kind != about["format"]:
            raise AssertionError(f"{row['id']} is {kind}, and the index declares {about['format']}")
        if kind == "chat" and [message["role"] for message in row["messages"]] != ["user"]:
            raise AssertionError(f"{row['id']} is not one message of a user")


def check_pairs(rows: list[dict]) -> None:
    """Pairs are let off the rules on overlap, so a pair is two different rows, one of each label, in one group."""
    members: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        if "pair" in row:
            members[row["pair"]].append(row)
    for pair, held in members.items():
        groups = {row["group"] for row in held}
        if sorted(row["label"] for row in held) != [0, 1] or len(groups) != 1 or text_of(held[0]) == text_of(held[1]):
            raise AssertionError(f"{pair} is not two different rows, one of each label, in one group: {[r['id'] for r in held]}")


def check_neutral(rows: list[dict], *, wanted: int = 300, least_groups: int = 24, most_of_one: int = 15) -> None:
    """Prompts of no concept: so many, without labels, of many topics."""
    if len(rows) != wanted or len({row["id"] for row in rows}) != wanted:
        raise AssertionError(f"{len(rows)} rows with {len({row['id'] for row in rows})} ids, wanted {wanted}")
    labelled = [row["id"] for row in rows if "label" in row]
    if labelled:
        raise AssertionError(f"neutral prompts have no label: {labelled}")
    topics = Counter(row["group"] for row in rows)
    if len(topics) < least_groups or max(topics.values()) > most_of_one:
        raise AssertionError(f"{len(topics)} topics of up to {max(topics.values())} rows, wanted {least_groups} of {most_of_one}")


def check_passages(rows: list[dict], *, wanted: int = 200, least_groups: int = 20, least_of_one: int = 8) -> None:
    """Contexts of a census: so many, of many kinds, without labels; no two begin alike or say the same, few end alike."""
    if len(rows) != wanted or len({row["id"] for row in rows}) != wanted:
        raise AssertionError(f"{len(rows)} rows with {len({row['id'] for row in rows})} ids, wanted {wanted}")
    if labelled := [row["id"] for row in rows if "label" in row]:
        raise AssertionError(f"passages have no label: {labelled}")
    kinds = Counter(row["group"] for row in rows)
    if len(kinds) < least_groups or min(kinds.values()) < least_of_one:
        raise AssertionError(
            f"{len(kinds)} groups of {min(kinds.values())} rows or more, wanted {least_groups} of {least_of_one}"
        )
    check_clean(rows)
    check_words_in_range(rows)
    check_openings(rows)
    check_endings(rows)
    check_shared_runs(rows)


def check_clean(rows: list[dict]) -> None:
    """Line breaks and no other control or invisible character; nothing before or after the text; one way to write each letter."""
    for row in rows:
        text = row["text"]
        if odd := sorted({f"U+{ord(c):04X}" for c in text if unicodedata.category(c)[0] == "C" and c != "\n"}):
            raise AssertionError(f"{row['id']} holds characters that cannot be seen: {odd}")
        if text != text.strip():
            raise AssertionError(f"{row['id']} begins or ends with a blank, which is a token of its own")
        if text != unicodedata.normalize("NFC", text):
            raise AssertionError(f"{row['id']} writes letters as letter and accent; normalise it to NFC")


def check_words_in_range(rows: list[dict], least: int = 35, most: int = 260, share: float = 0.85) -> None:
    lengths = {row["id"]: len(words(row["text"])) for row in rows}
    if outside := {name: length for name, length in lengths.items() if not least <= length <= most}:
        raise AssertionError(f"outside {least} to {most} words: {outside}")
    usual = sum(60 <= length <= 220 for length in lengths.values()) / len(lengths)
    if usual < share:
        raise AssertionError(f"{usual:.2f} of the passages have 60 to 220 words, wanted {share}")


def check_openings(rows: list[dict], count: int = 4, most_of_first: int = 10) -> None:
    """No two share their first words, and no single word begins many."""
    opened: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        opened[" ".join(words(row["text"])[:count])].append(row["id"])
    if alike := {opening: names for opening, names in opened.items() if len(names) > 1}:
        raise AssertionError(f"passages begin with the same {count} words: {alike}")
    first, held = Counter(words(row["text"])[0] for row in rows).most_common(1)[0]
    if held > most_of_first:
        raise AssertionError(f"{held} passages begin with {first!r}, at most {most_of_first} may")


def check_endings(rows: list[dict], most_stopped: float = 0.25, most_of_one: float = 0.1) -> None:
    """Where a network reads is where a passage ends: most break off inside a sentence, at many different words."""
    stopped = [row["id"] for row in rows if row["text"][-1] in ".!?…\"'”“»)}]>"]
    if len(stopped) > most_stopped * len(rows):
        raise AssertionError(f"{len(stopped)} passages end where a sentence does, at most {most_stopped:.0%} may: {stopped}")
    last, held = Counter(words(row["text"])[-1] for row in rows).most_common(1)[0]
    if held > most_of_one * len(rows):
        raise AssertionError(f"{held} passages end with {last!r}, at most {most_of_one:.0%} may")


def check_shared_runs(rows: list[dict], length: int = 5, most: int = 2) -> None:
    """No two share more than a turn of speech: `most` runs of `length` words are a run of six."""
    runs = []
    for row in rows:
        said = words(row["text"])
        runs.append({tuple(said[i : i + length]) for i in range(len(said) - length + 1)})
    clashes = [
        f"{a['id']} ~ {b['id']}: {sorted(' '.join(run) for run in runs[i] & runs[j])}"
        for (i, a), (j, b) in combinations(enumerate(rows), 2)
        if len(runs[i] & runs[j]) > most
    ]
    if clashes:
        raise AssertionError(f"passages share over {most} runs of {length} words: {clashes[:20]}")


def check_no_template(rows: list[dict], most: int = 10) -> None:
    for what, key in (
        ("opening of three words", lambda row: " ".join(words(text_of(row))[:3])),
        ("skeleton of function words", lambda row: skeleton(text_of(row))),
        ("ending of three words", lambda row: " ".join(words(text_of(row))[-3:])),
    ):
        for shape, count in Counter(map(key, rows)).most_common(1):
            if count > most:
                raise AssertionError(f"{count} rows share one {what} {shape!r}, at most {most} may")


def check_no_overlap(rows: list[dict]) -> None:
    """No two rows share over half of the smaller one's content words, unless they are a declared pair."""
    sets = [content_words(text_of(row)) for row in rows]
    thin = [row["id"] for row, held in zip(rows, sets, strict=True) if len(held) < 3]
    if thin:
        raise AssertionError(f"fewer than 3 content words in {thin}")
    clashes = [
        f"{a['id']} {text_of(a)!r} ~ {b['id']} {text_of(b)!r} share {sorted(sets[i] & sets[j])}"
        for (i, a), (j, b) in combinations(enumerate(rows), 2)
        if not are_pair(a, b) and len(sets[i] & sets[j]) > 0.5 * min(len(sets[i]), len(sets[j]))
    ]
    if clashes:
        raise AssertionError(f"{len(clashes)} pairs of rows share over half of their content words:\n" + "\n".join(clashes[:40]))


def check_no_near_duplicate(rows: list[dict], most: float = 0.6) -> None:
    texts = [text_of(row) for row in rows]
    similarity = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(texts)
    cosine = (similarity @ similarity.T).toarray()
    close = [
        f"{rows[i]['id']} ~ {rows[j]['id']}: {cosine[i, j]:.2f}"
        for i, j in combinations(range(len(rows)), 2)
        if cosine[i, j] > most and not are_pair(rows[i], rows[j])
    ]
    if close:
        raise AssertionError(f"near duplicates (cosine over {most}): {close[:20]}")


@cache
def smollm2_tokenizer():
    """The embedded network's own, so that lengths are those it sees; without the network, which takes seconds to load."""
    from transformers import AutoTokenizer

    from strandscope.subject.gguf import converted, embedded_file, gguf_fingerprint

    file = embedded_file()
    return AutoTokenizer.from_pretrained(converted(file, gguf_fingerprint(file)))


def length_auroc(rows: list[dict], unit: str) -> float:
    labels = [row["label"] for row in rows]
    if unit == "characters":
        lengths = [len(text_of(row)) for row in rows]
    else:
        lengths = [len(ids) for ids in smollm2_tokenizer()([text_of(row) for row in rows])["input_ids"]]
    return float(roc_auc_score(labels, lengths))


def check_length(rows: list[dict], units: tuple[str, ...] = ("characters", "tokens")) -> None:
    for unit in units:
        auroc = length_auroc(rows, unit)
        if not 0.40 <= auroc <= 0.60:
            raise AssertionError(f"length in {unit} alone tells the label: AUROC {auroc:.3f}, wanted 0.40 to 0.60")


def bag_of_words_auroc(rows: list[dict]) -> float:
    """Leave-topic-out bag of words (word 1- and 2-grams, logistic): mean over topics of the AUROC inside the topic."""
    texts = np.array([text_of(row) for row in rows])
    labels = np.array([row["label"] for row in rows])
    groups = np.array([row["group"] for row in rows])
    scores = []
    for group in np.unique(groups):
        held_out = groups == group
        vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True).fit(texts[~held_out])
        model = LogisticRegression(C=1.0, max_iter=2000).fit(vectorizer.transform(texts[~held_out]), labels[~held_out])
        scores.append(roc_auc_score(labels[held_out], model.decision_function(vectorizer.transform(texts[held_out]))))
    return float(np.mean(scores))


def check_words(rows: list[dict], most: float) -> None:
    auroc = bag_of_words_auroc(rows)
    if auroc > most:
        raise AssertionError(f"words alone tell the label: leave-topic-out AUROC {auroc:.3f}, wanted at most {most:.2f}")


def rules(name: str, about: dict) -> dict[str, Callable[[list[dict]], None]]:
    """Every rule that holds for a pack, by name. Only "length in tokens" needs the embedded network, for its tokenizer."""
    held: dict[str, Callable[[list[dict]], None]] = {"declared": partial(check_declared, about=about)}
    if about["positive"]:
        held |= {"shape": check_shape, "pairs": check_pairs}
    else:
        held |= {"passages": check_passages} if name == "passages" else {"neutral": check_neutral}
    held |= {"template": check_no_template, "overlap": check_no_overlap, "near duplicate": check_no_near_duplicate}
    if name in WORDS_AT_MOST:
        held["words"] = partial(check_words, most=WORDS_AT_MOST[name])
    if about["positive"]:
        held |= {f"length in {unit}": partial(check_length, units=(unit,)) for unit in ("characters", "tokens")}
    return held


def main(name: str) -> int:
    rows, about, failed = load_rows(name), about_pack(name), False
    for rule, check in rules(name, about).items():
        try:
            check(rows)
            print(f"ok   {rule}")
        except AssertionError as error:
            failed = True
            print(f"FAIL {rule}: {error}")
    if about["positive"]:
        print(f"length AUROC {length_auroc(rows, 'characters'):.3f} (characters), {length_auroc(rows, 'tokens'):.3f} (tokens)")
        print(f"leave-topic-out bag-of-words AUROC {bag_of_words_auroc(rows):.3f}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
