//! The naive way of docs/reliability.md goes wrong as the chapter says.
//!
//! The goal: the chapter's transcript is what a reader sees. The method: the program runs here, and its words are
//! looked up in the chapter.

#[path = "../docs/naive/reliability.rs"]
mod naive;
#[path = "support/source.rs"]
mod source;

#[test]
fn the_naive_way_fails_as_the_chapter_says() {
    let story = naive::what_can_be_had().expect("it runs") + &naive::every_call_in_turn();
    assert!(story.contains("write #2, one byte: Ok(())"), "{story}");
    let shown = format!("```text\n{story}```\n");
    assert!(source::read("docs/reliability.md").contains(&shown), "docs/reliability.md is to show:\n{shown}");
}
