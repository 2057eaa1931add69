# fish completion of poolctl, coordinatord and poolserve. What may come next is the
# programs' to say: poolctl answers `poolctl complete`, the others --help.

function __modelpool_poolctl
    set -l words (commandline -opc)
    set -l begun (commandline -ct)
    set -l answer ($words[1] complete $words[2..] "$begun" 2>/dev/null)
    switch "$answer[1]"
        case files
            __fish_complete_path "$begun"
        case directories
            __fish_complete_directories "$begun"
        case command
            # A COMMAND of its own, behind the first --.
            set -l at (contains -i -- -- $words)
            set -l rest (string escape -- $words[(math $at + 1)..])
            complete -C (string join ' ' -- $rest (string escape -n -- "$begun"))
        case words
            printf '%s\n' $answer[2..]
    end
end

function __modelpool_options
    $argv[1] --help 2>/dev/null | string match -r -- '--[a-z][a-z-]*' | sort -u
end

complete -c poolctl -f -a '(__modelpool_poolctl)'
for program in coordinatord poolserve
    complete -c $program -a "(__modelpool_options $program)"
end
