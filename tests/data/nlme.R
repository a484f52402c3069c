# Reference values of structured residuals: run with R and nlme beside the data files.
#   Rscript tests/data/nlme.R   (in the root of the repository; writes tests/data/nlme.json)
library(nlme)
write_data <- function(d, name) {
  d <- as.data.frame(lapply(d, function(v) if (is.factor(v)) as.character(v) else as.numeric(v)))
  write.csv(d, gzfile(file.path("tests/data", paste0(name, ".csv.gz"))), row.names = FALSE)
}
ovary <- Ovary
ovary$Count <- ave(seq_len(nrow(ovary)), ovary$Mare, FUN = seq_along)
ovary$s <- sin(2 * pi * ovary$Time); ovary$c <- cos(2 * pi * ovary$Time)
ovary$Half <- factor(ifelse(ovary$Time > 0.5, "late", "early"))
body <- BodyWeight
orth <- Orthodont
orth$Visit <- as.integer(factor(orth$age))
set.seed(1)
orth_missing <- orth[-sample(nrow(orth), 20), ]
body_missing <- body[-sample(nrow(body), 25), ]
# unbalanced groups with a negative intraclass correlation
neg <- data.frame(g = rep(1:30, each = 3), x = rep(c(-1, 0, 1), 30) + rnorm(90, sd = 0.3))
e <- matrix(rnorm(90), 30); e <- e - 0.8 * rowMeans(e)
neg$y <- 2 + 0.5 * neg$x + as.vector(t(e)); neg <- neg[-c(4, 50), ]
write_data(ovary, "ovary"); write_data(body, "bodyweight"); write_data(orth, "orthodont")
write_data(orth_missing, "orthodont_missing"); write_data(body_missing, "bodyweight_missing")
write_data(neg, "negative")

ctl <- glsControl(msTol = 1e-14, tolerance = 1e-12, msMaxIter = 5000, maxIter = 5000, opt = "nlminb")
lctl <- lmeControl(msTol = 1e-14, tolerance = 1e-12, msMaxIter = 5000, maxIter = 5000, niterEM = 100)
out <- list()
take <- function(name, fit) {
  m <- fit$modelStruct
  res <- list(loglik = as.numeric(logLik(fit)),
              coef = as.list(if (inherits(fit, "lme")) fixef(fit) else coef(fit)),
              sigma = fit$sigma)
  V <- if (inherits(fit, "lme")) fit$varFix else fit$varBeta
  if (method == "REML") res$vcov <- lapply(seq_len(nrow(V)), function(i) as.numeric(V[i, ]))
  if (!is.null(m$corStruct)) {
    res$corr <- as.numeric(coef(m$corStruct, unconstrained = FALSE))
  }
  if (!is.null(m$varStruct)) res$var <- as.list(coef(m$varStruct, unconstrained = FALSE, allCoef = TRUE))
  if (inherits(fit, "lme")) {
    V <- getVarCov(fit)
    res$random <- lapply(seq_len(nrow(V)), function(i) as.numeric(V[i, ]))
  }
  out[[name]] <<- res
}
for (method in c("REML", "ML")) {
  n <- function(x) paste(x, method)
  take(n("ovary gls ar1"), gls(follicles ~ s + c, ovary, corAR1(form = ~ Count | Mare), method = method, control = ctl))
  take(n("ovary lme ar1"), lme(follicles ~ s + c, ovary, random = ~ 1 | Mare, correlation = corAR1(form = ~ Count | Mare), method = method, control = lctl))
  take(n("ovary gls car1"), gls(follicles ~ s + c, ovary, corCAR1(form = ~ Time | Mare), method = method, control = ctl))
  take(n("ovary lme diag ar1"), lme(follicles ~ s + c, ovary, random = list(Mare = pdDiag(~ s)), correlation = corAR1(form = ~ Count | Mare), method = method, control = lctl))
  take(n("ovary gls ar1 varident"), gls(follicles ~ s + c, ovary, corAR1(form = ~ Count | Mare), weights = varIdent(form = ~ 1 | Half), method = method, control = ctl))
  take(n("ovary lme varident"), lme(follicles ~ s + c, ovary, random = ~ 1 | Mare, weights = varIdent(form = ~ 1 | Half), method = method, control = lctl))
  take(n("bodyweight lme car1"), lme(weight ~ Time * Diet, body_missing, random = ~ 1 | Rat, correlation = corCAR1(form = ~ Time | Rat), method = method, control = lctl))
  take(n("bodyweight lme varident"), lme(weight ~ Time * Diet, body, random = ~ Time | Rat, weights = varIdent(form = ~ 1 | Diet), method = method, control = lctl))
  take(n("bodyweight gls car1"), gls(weight ~ Time * Diet, body, corCAR1(form = ~ Time | Rat), method = method, control = ctl))
  take(n("orthodont gls cs"), gls(distance ~ age * Sex, orth, corCompSymm(form = ~ 1 | Subject), method = method, control = ctl))
  take(n("orthodont gls cs varident"), gls(distance ~ age * Sex, orth_missing, corCompSymm(form = ~ 1 | Subject), weights = varIdent(form = ~ 1 | Sex), method = method, control = ctl))
  take(n("orthodont gls symm"), gls(distance ~ age * Sex, orth_missing, corSymm(form = ~ Visit | Subject), method = method, control = ctl))
  take(n("orthodont gls unstructured"), gls(distance ~ age * Sex, orth_missing, corSymm(form = ~ Visit | Subject), weights = varIdent(form = ~ 1 | Visit), method = method, control = ctl))
  take(n("orthodont gls varident"), gls(distance ~ age * Sex, orth, weights = varIdent(form = ~ 1 | Sex), method = method, control = ctl))
  take(n("orthodont gls varexp"), gls(distance ~ age * Sex, orth, corCompSymm(form = ~ 1 | Subject), weights = varExp(form = ~ age), method = method, control = ctl))
  take(n("negative gls cs"), gls(y ~ x, neg, corCompSymm(form = ~ 1 | g), method = method, control = ctl))
}
to_json <- function(x) {
  if (is.list(x)) {
    inner <- sapply(x, to_json)
    if (is.null(names(x))) paste0("[", paste(inner, collapse = ", "), "]")
    else paste0("{", paste0("\"", names(x), "\": ", inner, collapse = ", "), "}")
  } else if (is.character(x)) paste0("\"", x, "\"")
  else if (length(x) == 1) format(x, digits = 12)
  else paste0("[", paste(format(as.numeric(x), digits = 12), collapse = ", "), "]")
}
out$version <- paste("R", getRversion(), "nlme", packageVersion("nlme"))
lines <- mapply(function(k, v) paste0("\"", k, "\": ", to_json(v)), names(out), out)
writeLines(c("{", paste(lines, collapse = ",\n"), "}"), "tests/data/nlme.json")
