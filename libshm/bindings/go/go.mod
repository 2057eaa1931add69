module modelpool

go 1.19
