# Runs files of shell code in one shell that keeps its variables. On the descriptor in its argument it reads a directory a
# line, with the files `before`, `code` and `after` in it, and answers with the status of the code.
hutch_in=$1
shift
shopt -s expand_aliases
hutch_run() {
    trap 'trap - INT; return 130' INT
    . "$1/code"
}
printf 'ready\n' >&"$hutch_in"
while IFS= read -r -u "$hutch_in" hutch_dir; do
    . "$hutch_dir/before"
    hutch_run "$hutch_dir" </dev/null
    hutch_status=$?
    trap '' INT
    . "$hutch_dir/after"
    printf '%s\n' "$hutch_status" >&"$hutch_in"
done
