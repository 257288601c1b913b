//! docs/rules.md: what people write there stays, and what comes from the program is made anew by
//! `UPDATE_DOCS=1 cargo test --test rules_doc`: the words of the table of rules, and for each rule what the text output
//! says of the events that the rule is tested with.
#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::{fmt::Write as _, fs, path::Path};

use iommu_trace::{
    model::{
        Features, RULES, Rule,
        testing::examples::{self, example},
    },
    output::{Clock, Palette, Sink as _, TextOptions, TextSink, TimeForm},
    source::SourceInfo,
};

const END: &str = "<!-- end -->";

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// What the table says of a rule.
fn words(rule: &Rule) -> String {
    let severity = format!("{:?}", rule.severity).to_lowercase();
    let mut text = String::new();
    writeln!(text, "*{severity}.* Fires when {}.\n", rule.summary).unwrap();
    writeln!(text, "The kernel's rule: {}.\nWhere it is stated: {}.", rule.demands, rule.stated).unwrap();
    text
}

/// What `iommu-trace check` prints for the example of a rule.
fn shown(rule: &Rule) -> String {
    let effects = example(rule.id).run();
    let violation = effects.violations.iter().find(|violation| violation.rule == rule.id);
    let violation = violation.unwrap_or_else(|| panic!("the example of {} does not break it", rule.id.slug()));
    assert!(!violation.evidence.is_empty(), "{} has no evidence", rule.id.slug());
    let info = SourceInfo {
        kernel: String::new(),
        machine: String::new(),
        host: String::new(),
        features: Features::default(),
        probes: Vec::new(),
        epoch_offset_ns: 0,
        started_ns: examples::BEGIN,
        settled: false,
        stretched: Vec::new(),
    };
    let options = TextOptions { palette: Palette::plain(), columns: 100, wrap: false, heads: false };
    let mut out = Vec::new();
    TextSink::new(&mut out, Clock::new(TimeForm::Relative, &info), options).violation(violation, &[]).unwrap();
    format!("```\n{}\n```\n", String::from_utf8(out).unwrap().trim_end())
}

/// Puts what is made between a block's mark and its end.
fn fill(doc: &str, mark: &str, made: &str) -> String {
    let mark = format!("<!-- {mark} -->\n");
    let (before, rest) = doc.split_once(&mark).unwrap_or_else(|| panic!("docs/rules.md has no block {mark}"));
    let (_, after) = rest.split_once(END).unwrap_or_else(|| panic!("the block {mark} has no end"));
    format!("{before}{mark}{made}{END}{after}")
}

/// The section of a rule.
fn section<'a>(doc: &'a str, slug: &str) -> &'a str {
    let head = format!("\n## {slug}\n");
    let start = doc.find(&head).unwrap_or_else(|| panic!("docs/rules.md has no section {slug}")) + head.len();
    let rest = &doc[start..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

#[test]
fn the_rule_reference_is_what_the_program_says() {
    let path = root("docs/rules.md");
    let there = fs::read_to_string(&path).unwrap();
    let made = RULES.iter().fold(there.clone(), |doc, rule| {
        let doc = fill(&doc, &format!("the table's {}", rule.id.slug()), &words(rule));
        fill(&doc, &format!("the example of {}", rule.id.slug()), &shown(rule))
    });
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &made).unwrap();
        return;
    }
    assert!(there == made, "docs/rules.md is out of step: UPDATE_DOCS=1 cargo test --test rules_doc");
}

#[test]
fn every_rule_is_explained_with_a_cause_and_how_it_was_seen() {
    let doc = fs::read_to_string(root("docs/rules.md")).unwrap();
    let guests = ["broken", "one_group", "replaced", "page_requests"]
        .map(|name| fs::read_to_string(root(&format!("xtask/src/guest_tests/{name}.rs"))).unwrap())
        .concat();
    for rule in RULES {
        let slug = rule.id.slug();
        let section = section(&doc, slug);
        for part in ["**Likely cause.**", "**Shown by.**"] {
            assert!(section.contains(part), "{slug} has no {part}");
        }
        // Guest tests that are named are there.
        for name in section.split('`').filter(|word| word.starts_with("broken-")) {
            assert!(guests.contains(&format!("\"{name}\"")), "{slug}: there is no guest test {name}");
        }
    }
    let sections: Vec<&str> = doc.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let at = |slug: &str| sections.iter().position(|section| *section == slug);
    assert!(RULES.iter().map(|rule| at(rule.id.slug())).is_sorted(), "the sections are not in the table's order");
}

/// The model's tests and the simulated kernel's bugs that the documentation names are there.
#[test]
fn what_is_named_exists() {
    let doc = fs::read_to_string(root("docs/rules.md")).unwrap();
    let tests = |file: &str| fs::read_to_string(root(&format!("iommu-trace/src/model/tests/{file}.rs"))).unwrap();
    let named: Vec<&str> = doc.split('`').filter(|word| word.starts_with("rules::") && word.len() > 10).collect();
    assert!(named.len() > RULES.len(), "{named:?}");
    for name in named {
        let (module, function) = name.rsplit_once("::").unwrap();
        let there = tests(&module.replace("::", "/")).contains(&format!("fn {function}("));
        assert!(there, "there is no test {name}");
    }
    let bugs = tests("simulation/bugs");
    let simulated =
        |line: &str| line.split('`').filter(|word| word.starts_with(char::is_uppercase)).map(str::to_owned).collect();
    for rule in RULES {
        let section = section(&doc, rule.id.slug());
        let (_, shown) = section.split_once("**Shown by.**").unwrap();
        let Some((_, list)) = shown.split_once("simulated") else { continue };
        let listed: Vec<String> = simulated(list);
        assert!(!listed.is_empty(), "{}", rule.id.slug());
        for name in listed {
            let variant = format!("{:?}", rule.id);
            let found = bugs
                .lines()
                .map(str::trim)
                .any(|line| line.strip_prefix(&format!("{name}: ")).is_some_and(|rules| rules.contains(&variant)));
            assert!(found, "the simulated kernel has no bug {name} that {variant} must find");
        }
    }
}
