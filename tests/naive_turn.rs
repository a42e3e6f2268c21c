//! The naive loop of docs/turn.md goes wrong as the chapter says.
//!
//! The goal: the chapter's transcript is what a reader sees. The method: the program runs here, alone in its process
//! (it depends on the kernel handing out the lowest free descriptor), and its words are looked up in the chapter.

#[path = "../docs/naive/turn.rs"]
mod naive;
#[path = "support/source.rs"]
mod source;

#[test]
fn the_naive_loop_fails_as_the_chapter_says() {
    let story = naive::stranger().expect("it runs") + &naive::reentry();
    assert!(story.contains("carol is closed"), "{story}");
    let shown = format!("```text\n{story}```\n");
    assert!(source::read("docs/turn.md").contains(&shown), "docs/turn.md is to show:\n{shown}");
}
