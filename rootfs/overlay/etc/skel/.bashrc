# For interactive shells. Programs installed for the user come first.
export PATH="$HOME/.local/bin:$HOME/.npm-global/bin:$PATH"
[ -z "$PS1" ] && return
PS1='\u@\h:\w\$ '
alias ll='ls -l'
