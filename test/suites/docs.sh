# Every example of the documentation is run.
program docs 300 perl test/docs/run README.md docs/*.md
