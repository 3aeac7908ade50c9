//! What is refused, and in what words.

use super::*;

#[test]
fn each_mistake_says_what_and_where() {
    let json = [
        ("", "", "EOF", "line 1 column 0"),
        ("[\"a\", ", "", "EOF", "line 1 column 6"),
        (
            "[\"a\",\n {\"address\": \"b",
            "[1].address",
            "EOF",
            "line 2 column 15",
        ),
        ("[] []", "", "trailing characters", "line 1 column 4"),
        ("{}", "", "a list", "line 1 column 2"),
        ("null", "", "a list", "line 1 column 4"),
        (
            "[7]",
            "[0]",
            "an address, or a map with one",
            "line 1 column 2",
        ),
        (
            "[\"a\", null]",
            "[1]",
            "an address, or a map with one",
            "line 1 column 10",
        ),
        ("[\"a\", \"\"]", "[1]", "is empty", "line 1 column 8"),
        (
            "[[\"a\"]]",
            "[0]",
            "an address, or a map with one",
            "line 1 column 2",
        ),
        ("[{}]", "[0]", "missing field `address`", "line 1 column 3"),
        (
            "[{\"address\": \"\"}]",
            "[0].address",
            "is empty",
            "line 1 column 15",
        ),
        (
            "[{\"address\": 7}]",
            "[0].address",
            "a string",
            "line 1 column 14",
        ),
        (
            "[{\"address\": \"a\",\n\"wieght\": 1}]",
            "[0].wieght",
            "unknown field `wieght`",
            "line 2 column 8",
        ),
        (
            "[{\"address\": \"a\", \"address\": \"b\"}]",
            "[0]",
            "duplicate field `address`",
            "line 1",
        ),
        (
            "[{\"address\": \"a\",\n\"weight\": 0}]",
            "[0].weight",
            "from 1 to 4294967295",
            "line 2 column 11",
        ),
        (
            "[{\"address\": \"a\", \"weight\": -1}]",
            "[0].weight",
            "a whole number",
            "line 1 column 30",
        ),
        (
            "[{\"address\": \"a\", \"weight\": 4294967296}]",
            "[0].weight",
            "a whole number",
            "line 1",
        ),
        (
            "[{\"address\": \"a\", \"weight\": 1.5}]",
            "[0].weight",
            "a whole number",
            "line 1",
        ),
        (
            "[{\"address\": \"a\", \"priority\": \"1\"}]",
            "[0].priority",
            "a whole number",
            "line 1",
        ),
        (
            "[{\"address\": \"a\", \"id\": \"\"}]",
            "[0].id",
            "is empty",
            "line 1",
        ),
        (
            "[{\"address\": \"a\", \"hash_key\": \"\"}]",
            "[0].hash_key",
            "is empty",
            "line 1",
        ),
        (
            "[{\"address\": \"a\", \"addresses\": [\"b\", \"\"]}]",
            "[0].addresses[1]",
            "is empty",
            "line 1",
        ),
        (
            "[{\"address\": \"a\", \"locality\": \"r/z/s/x\"}]",
            "[0].locality",
            "region/zone/sub_zone",
            "line 1",
        ),
        (
            "[{\"address\": \"a\", \"locality\": {\"rack\": \"x\"}}]",
            "[0].locality.rack",
            "unknown field",
            "line 1",
        ),
        (
            "[{\"address\": \"a\", \"locality\": 7}]",
            "[0].locality",
            "region/zone/sub_zone",
            "line 1",
        ),
        (
            "[{\"address\": \"a\", \"metadata\": {\"k\": true}}]",
            "[0].metadata.k",
            "a string",
            "line 1",
        ),
        (
            "[{\"address\": \"a\", \"metadata\": {\"k\": \"1\", \"k\": \"2\"}}]",
            "[0].metadata",
            "\"k\" is named twice",
            "line 1",
        ),
        (
            "[{\"address\": \"a\", \"metadata\": []}]",
            "[0].metadata",
            "a map of strings",
            "line 1",
        ),
        (
            "[\"a\", \"b\", {\"address\": \"c\", \"id\": \"a\"}]",
            "[2].id",
            "\"a\" is the id of [0], too",
            "",
        ),
    ];
    let yaml = [
        ("", "", "nothing, expected a list", ""),
        ("# Nobody yet.\n", "", "nothing, expected a list", ""),
        ("---\n", "", "a list", ""),
        ("address: a\n", "", "a list", ""),
        (
            "- a\n- {address: b\n",
            "",
            "line 3 column 1",
            "line 2 column 3",
        ),
        ("- a\n\t- b\n", "", "tab", "line 2"),
        ("- a\n--- \n- b\n", "", "more than one document", ""),
        (
            "- a\n- 7\n",
            "[1]",
            "an address, or a map with one",
            "line 2 column 3",
        ),
        ("- a\n-\n", "[1]", "an address, or a map with one", "line 2"),
        ("- a\n- ''\n", "[1]", "is empty", "line 2 column 3"),
        (
            "- id: a\n",
            "[0]",
            "missing field `address`",
            "line 1 column 3",
        ),
        (
            "- address: a\n  wieght: 1\n",
            "[0]",
            "unknown field `wieght`",
            "line 2 column 3",
        ),
        (
            "- address: a\n  weight: 0\n",
            "[0].weight",
            "from 1 to 4294967295",
            "line 2 column 11",
        ),
        (
            "- address: a\n  weight: heavy\n",
            "[0].weight",
            "a whole number",
            "line 2 column 11",
        ),
        (
            "- address: a\n  id: ''\n",
            "[0].id",
            "is empty",
            "line 2 column 7",
        ),
        (
            "- address: a\n  addresses: [b, '']\n",
            "[0].addresses[1]",
            "is empty",
            "line 2 column 18",
        ),
        (
            "- address: a\n  locality: r/z/s/x\n",
            "[0].locality",
            "region/zone/sub_zone",
            "line 2 column 13",
        ),
        (
            "- address: a\n  locality: {rack: x}\n",
            "[0].locality",
            "unknown field `rack`",
            "line 2 column 14",
        ),
        (
            "- address: a\n  metadata: {k: 1, k: 2}\n",
            "[0].metadata",
            "\"k\" is named twice",
            "line 2",
        ),
        ("- &a x\n- *b\n", "", "unknown anchor", "line 2 column 3"),
        (
            "- a\n- b\n- a\n",
            "[2].id",
            "\"a\" is the id of [0], too",
            "",
        ),
    ];
    let json = json.map(|case| (case, Format::Json));
    let yaml = yaml.map(|case| (case, Format::Yaml));
    let mut wrong = Vec::new();
    for ((text, path, what, line), format) in json.into_iter().chain(yaml) {
        match decode(text, format) {
            Ok(list) => wrong.push(format!("{format:?} {text:?} was taken: {list:?}")),
            Err(said) => {
                let begins = path.is_empty() || said.starts_with(&format!("{path}: "));
                if !begins || !said.contains(what) || !said.contains(line) {
                    wrong.push(format!(
                        "{format:?} {text:?}: want {path:?} {what:?} {line:?}: {said}"
                    ));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "a mistake is told with its place:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn what_would_not_end_is_a_mistake() {
    let deep = "[".repeat(10_000);
    for format in [Format::Json, Format::Yaml] {
        decode(&deep, format).expect_err("and it takes no stack");
    }
    let mut bomb = "- &a0 {address: x, addresses: [y, y, y, y, y, y, y, y, y, y]}\n".to_owned();
    for n in 1..10 {
        let ten = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("- &a{n} {{address: [{ten}]}}\n"));
    }
    decode(&bomb, Format::Yaml).expect_err("aliases do not multiply without end");
    let long = format!(
        "[\"a\", {{\"address\": \"b\", \"{}\": 1}}]",
        "x".repeat(1 << 20)
    );
    let mistake = decode(&long, Format::Json).unwrap_err();
    assert!(
        mistake.len() < 1_000 && mistake.starts_with("[1].x") && mistake.contains("line 1"),
        "a mistake quotes no megabytes, and keeps its place: {mistake}"
    );
}

#[test]
fn a_yaml_that_opens_and_opens_is_refused_before_it_is_parsed() {
    // The parser would take hours for it.
    let text = "{a: ".repeat(1_000_000);
    let mistake = decode(&text, Format::Yaml).expect_err("it never ends");
    assert_eq!(
        mistake,
        "more than 128 brackets are open at line 1 column 513"
    );
}
