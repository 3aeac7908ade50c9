//! A module imports only modules of strictly lower rank, and siblings never import each other, so
//! that each part can be read, tested and replaced without what stands above it.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The modules at the top of the crate, lowest rank first.
const RANKS: &[&[&str]] = &[
    &["error", "math", "proto"],
    &["endpoint", "outcome"],
    // Of their own, over `endpoint`: both name an endpoint by its id.
    &["call", "observe"],
    &["health", "load", "topology"],
    &["policy", "server"],
    &["connection", "discovery", "probe"],
    &["cluster"],
    &["balance", "retry"],
    &["admin", "metrics", "route", "service_config"],
    &["xds"],
    &["grpc"],
];

fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|rank| rank.contains(&module))
}

/// A file of the crate, by its place under `src`.
struct File<'a> {
    /// The module at the top of the crate that it belongs to.
    module: &'a str,
    /// How many `super` lead from its outermost items to the crate's root.
    depth: usize,
}

/// What is wrong with the code of one file.
fn violations(file: &File<'_>, code: &str) -> Vec<String> {
    let tokens: TokenStream = code.parse().expect("the file is Rust");
    let mut scan = Scan {
        file,
        own: rank(file.module),
        found: Vec::new(),
    };
    if scan.own.is_none() {
        scan.found
            .push(format!("the module {} has no rank", file.module));
    }
    scan.tokens(tokens, file.depth);
    scan.found
}

struct Scan<'a> {
    file: &'a File<'a>,
    own: Option<usize>,
    found: Vec<String>,
}

impl Scan<'_> {
    /// `depth` is that of the module which these tokens stand in.
    fn tokens(&mut self, tokens: TokenStream, depth: usize) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => {
                    let inside = usize::from(is_module(&tokens[..at]));
                    self.tokens(group.stream(), depth + inside);
                }
                TokenTree::Ident(ident) => {
                    let rest = &tokens[at + 1..];
                    if *ident == "crate" {
                        self.path_from_root(rest);
                    } else if *ident == "super" {
                        self.path_from_above(rest, depth);
                    }
                }
                _ => {}
            }
        }
    }

    /// `rest` is what follows `crate`.
    fn path_from_root(&mut self, rest: &[TokenTree]) {
        match after_colons(rest) {
            Some(TokenTree::Ident(name)) => self.import(&name.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let mut first = true;
                for token in group.stream() {
                    match &token {
                        TokenTree::Ident(name) if first => self.import(&name.to_string()),
                        TokenTree::Punct(punct) if punct.as_char() == '*' && first => {
                            self.import("*");
                        }
                        _ => {}
                    }
                    first = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ',');
                }
            }
            Some(TokenTree::Punct(_)) => self.import("*"),
            // The `crate` of `pub(crate)`.
            _ => {}
        }
    }

    /// `rest` is what follows `super`.
    fn path_from_above(&mut self, rest: &[TokenTree], depth: usize) {
        let next = after_colons(rest);
        if matches!(next, Some(TokenTree::Ident(name)) if *name == "super") {
            self.found
                .push("super::super: name the module from the root".into());
        } else if next.is_some() && depth <= 1 {
            self.found
                .push("super at the top of the crate is its root".into());
        }
    }

    fn import(&mut self, name: &str) {
        if name == self.file.module {
            return;
        }
        match (rank(name), self.own) {
            (None, _) => self.found.push(format!(
                "crate::{name}: the root's re-exports are for users, and modules have a rank"
            )),
            (Some(theirs), Some(own)) if theirs >= own => self.found.push(format!(
                "crate::{name} has rank {theirs}, and {} has {own}",
                self.file.module
            )),
            _ => {}
        }
    }
}

/// Whether a group after these tokens is the inside of a `mod`.
fn is_module(before: &[TokenTree]) -> bool {
    matches!(before, [.., TokenTree::Ident(word), TokenTree::Ident(_)] if *word == "mod")
}

/// What follows `::`, if that is what comes first.
fn after_colons(tokens: &[TokenTree]) -> Option<&TokenTree> {
    match tokens {
        [TokenTree::Punct(a), TokenTree::Punct(b), next, ..]
            if a.as_char() == ':' && b.as_char() == ':' =>
        {
            Some(next)
        }
        _ => None,
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the entry can be read").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn imports_go_down_the_ranks_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&src, &mut paths);
    paths.sort();
    assert!(paths.len() > 20, "the sources were found: {paths:?}");
    let mut found = Vec::new();
    for path in &paths {
        let relative = path.strip_prefix(&src).expect("it is in src");
        let parts: Vec<&str> = relative
            .iter()
            .map(|part| part.to_str().expect("names are UTF-8"))
            .map(|part| part.trim_end_matches(".rs"))
            .filter(|part| *part != "mod")
            .collect();
        // The root itself names every module.
        if parts == ["lib"] {
            continue;
        }
        let file = File {
            module: parts[0],
            depth: parts.len(),
        };
        let code = fs::read_to_string(path).expect("the file can be read");
        for violation in violations(&file, &code) {
            found.push(format!("{}: {violation}", relative.display()));
        }
    }
    assert!(
        found.is_empty(),
        "imports go down the ranks only:\n{}",
        found.join("\n")
    );
}

#[test]
fn every_way_to_break_the_rule_is_caught() {
    let policy = File {
        module: "policy",
        depth: 2,
    };
    for (code, why) in [
        ("use crate::balance::Balance;", "a higher rank"),
        ("use crate::server::Report;", "a sibling"),
        (
            "use crate::{health::Gate, cluster::{Shared, Snapshot}};",
            "in a group",
        ),
        (
            "use crate::{\n    health::Gate,\n    // Why.\n    balance,\n};",
            "in a group over lines",
        ),
        ("pub(crate) use crate::balance::Balance;", "a re-export"),
        ("fn f() { crate::balance::g() }", "a path in code"),
        (
            "fn f() -> crate::cluster::Shared { g() }",
            "a path in a type",
        ),
        (
            "fn f() { warn!(x = %crate::balance::g()) }",
            "a path in a macro",
        ),
        (
            "#[cfg(test)] mod tests { use crate::balance::Balance; }",
            "in tests too",
        ),
        ("use crate::Balance;", "a root re-export"),
        (
            "use crate::{Balance, BoxError};",
            "root re-exports in a group",
        ),
        ("use crate::*;", "the whole root"),
        ("use crate::{*};", "the whole root"),
        ("use crate::novelty::New;", "a module without a rank"),
        ("use super::super::balance::Balance;", "up and down again"),
        (
            "mod tests { use super::super::balance::Balance; }",
            "up and down again",
        ),
    ] {
        assert_eq!(violations(&policy, code).len().min(1), 1, "{why}: {code}");
    }
    let top = File {
        module: "policy",
        depth: 1,
    };
    assert_eq!(
        violations(&top, "use super::balance::Balance;").len(),
        1,
        "super of a top module is the root"
    );
    let new = File {
        module: "novelty",
        depth: 1,
    };
    assert_eq!(violations(&new, "").len(), 1, "each module has a rank");
}

#[test]
fn what_keeps_the_rule_is_not_caught() {
    let policy = File {
        module: "policy",
        depth: 2,
    };
    for code in [
        "use crate::health::{Gate, Health};",
        "use crate::policy::{Candidates, Pick};",
        "use crate::{error::Error, math::{Rng, atomic::AtomicU32}};",
        "pub(crate) fn f() {}",
        "pub(in crate::policy) fn f() {}",
        "use super::Candidates; pub(super) fn f() {}",
        "mod tests { use super::*; }",
        "//! See [`Balance`](crate::Balance).\n/// And [`this`](crate::balance::Builder).\nfn f() {}",
        "// use crate::balance::Balance;\nconst S: &str = \"crate::balance\";",
        "use tower::balance::p2c::Balance;",
    ] {
        assert_eq!(violations(&policy, code), [] as [&str; 0], "{code}");
    }
    let top = File {
        module: "policy",
        depth: 1,
    };
    assert_eq!(
        violations(&top, "mod tests { use super::*; } pub(super) fn f() {}"),
        [] as [&str; 0],
        "a test module looks at its own module"
    );
}
